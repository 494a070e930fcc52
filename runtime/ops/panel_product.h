// SPDX-License-Identifier: Apache-2.0
// Quantized rows times panels of a packed matrix, as float results, by the kernels that suit the
// number of rows: the piece of work that Linear and MixtureOfExperts share out as tasks.
#pragma once

#include "base/activations.h"
#include "base/packed_matrix.h"
#include "kernels/arrange/arrange.h"
#include "kernels/epilogue/epilogue.h"
#include "kernels/gemm/gemm.h"
#include "kernels/gemm_packed/gemm_packed.h"
#include "kernels/gemm_shift/gemm_shift.h"
#include "kernels/gemv/gemv.h"
#include "kernels/unpack/unpack.h"

namespace edgefold {

inline constexpr int64_t kRowsPerTile = 128;  // a decoded panel serves this many rows

// At most kRowsPerTile rows of a left operand.
struct RowTile {
  Activations a;
  const float* row_scales;  // [a.rows]
  uint8_t* arranged;        // ArrangedBytes(a.rows) bytes, 64-byte aligned, filled by Arrange
};

// Where the results of some panels go.
struct ProductOutput {
  const float* bias;  // [N], or one value
  bool bias_is_scalar;
  float* y;  // [rows][stride], from the panels' first column on
  int64_t stride;
};

// Read-only once made.
class PanelProduct {
 public:
  // The memory of `matrix` and `scales` must outlive this object.
  PanelProduct(const PackedMatrix& matrix, const float* scales);

  const PackedMatrix& matrix() const { return matrix_; }
  // Bytes of `arranged` for a tile of this many rows; 0 where they are read as they are.
  int64_t ArrangedBytes(int64_t rows, bool is_unsigned) const;
  // Fills rows [first, first + rows) of tile.arranged, where there is something to fill.
  void Arrange(const RowTile& tile, int64_t first, int64_t rows) const;
  // Panels that a task should take of `panels` for a tile of `rows` rows.
  int64_t PanelsPerTask(int64_t rows) const;
  // Writes columns [16 * first_panel, 16 * (first_panel + panels)) below N of all rows of the tile:
  // y = float(a . W) * (row scale * scale) + bias. False when memory could not be had.
  bool Run(const RowTile& tile, int64_t first_panel, int64_t panels,
           const ProductOutput& out) const;

 private:
  bool Few(int64_t rows) const;
  bool Arranges(int64_t rows) const;
  // Float results of the sums [rows][16 * panels].
  void Finish(const RowTile& tile, const int32_t* acc, int64_t first_panel, int64_t panels,
              const ProductOutput& out) const;
  bool RunPacked(const RowTile& tile, int64_t first_panel, int64_t panels,
                 const ProductOutput& out) const;
  ArrangedRows Arranged(const RowTile& tile) const;

  PackedMatrix matrix_;
  const float* scales_;
  UnpackKernel* unpack_;
  GemmKernel* gemm_;
  ArrangeKernel* arrange_;
  GemmPackedKernel* gemm_packed_;  // null where one of the next two multiplies
  GemmShiftKernel* gemm_shift_;    // null where decoding to int8 is as fast
  GemvKernel* gemv_;
  EpilogueKernel* epilogue_;
};

}  // namespace edgefold
