// SPDX-License-Identifier: Apache-2.0
// Rows of codes times a packed matrix as int32 sums, some columns at a time: the sums are finished
// while they are in the first-level cache.
#pragma once

#include <cstdint>
#include <vector>

#include "base/packed_matrix.h"
#include "base/parallel.h"
#include "base/rounding.h"
#include "kernels/arrange/arrange.h"
#include "kernels/conv_sums/conv_sums.h"
#include "kernels/gemm/gemm.h"
#include "kernels/gemm_shift/gemm_shift.h"
#include "kernels/gemm_wide/gemm_wide.h"
#include "kernels/gemm_windows/gemm_windows.h"
#include "kernels/unpack/unpack.h"

namespace edgefold {

// Windows of an image: rows of codes that may overlap, in place of copies.
struct CodeWindows {
  const void* codes;       // of the first window, CodeProduct::WindowCodeBytes() bytes each
  int64_t width;           // windows of a row of them
  int64_t height;          // rows of windows
  int64_t step;            // codes from a window to the next one
  int64_t row_step;        // codes from a row of windows to the next one
  const int64_t* offsets;  // [lines]: codes from a window's start
  int64_t lines;           // those of the product, or 1
  int64_t line_codes;
  int64_t first;  // of the first window, the row among the sums
  int64_t pitch;  // rows among the sums from a row of windows to the next one
};

// Read-only once made.
class CodeProduct {
 public:
  static constexpr int64_t kChunkPanels = 4;
  static constexpr int64_t kChunkColumns = kChunkPanels * kPanelColumns;

  // The memory of `matrix` must outlive this object. `lines`: of the windows that Run is given; 1
  // where it is given rows.
  CodeProduct(const PackedMatrix& matrix, bool is_unsigned, int64_t lines = 1);

  const PackedMatrix& matrix() const { return matrix_; }
  // Bytes from one row of codes to the next; those from K on are zero.
  int64_t RowBytes() const {
    if (gemm_windows_ != nullptr) return RoundUp(matrix_.k, kUnitDepth);
    return gemm_wide_ != nullptr ? RoundUp(matrix_.k, 2) : matrix_.Groups() * kGroupDepth;
  }
  // Whether rows are multiplied as they lie: nothing is copied, arranged or summed beforehand.
  bool TakesRowsAsTheyLie() const { return gemm_windows_ != nullptr; }
  // Bytes of the weights that Run is given. A call decodes them and lets them go: kept, they would
  // be the larger part of what a model needs, and decoding takes 3 cycles where a row of codes
  // takes 1. 0 where a kernel wants them otherwise, and the object keeps them.
  int64_t WeightBytes() const { return weight_bytes_; }
  // Fills WeightBytes() bytes, 64-byte aligned.
  void DecodeWeights(uint8_t* weights, const Parallel& parallel) const;
  // Bytes of scratch, 64-byte aligned, for so many rows; a multiple of 64. `decodes`: Run is given
  // no weights and decodes a chunk at a time, as suits weights that meet all their rows in one
  // call.
  int64_t ScratchBytes(int64_t rows, bool decodes) const;
  // The same for windows.
  static int64_t WindowScratchBytes(int64_t windows) { return windows * kChunkColumns * 4; }

  // Calls finish(column, columns, sums) for one chunk of the panels after the other; columns end
  // with N, and row r of the sums begins at sums[r * kChunkColumns]. `weights`: as DecodeWeights
  // fills them, or null.
  template <typename Finish>
  void Run(const uint8_t* weights, const uint8_t* codes, int64_t rows, int64_t first_panel,
           int64_t panels, uint8_t* scratch, const Finish& finish) const {
    Operands operands = Prepare(codes, rows, scratch);
    operands.weights = Weights(weights);
    operands.chunk = reinterpret_cast<int8_t*>(scratch + ScratchBytes(rows, false));
    Chunks(operands, first_panel, panels, finish);
  }

  // Whether Run takes windows with so many codes in a line. Up to kWindowSlack bytes behind a line
  // are read.
  static constexpr int64_t kWindowSlack = kUnitDepth - 1;
  bool TakesWindows(int64_t line_codes) const {
    return gemm_windows_ != nullptr || gemm_wide_ != nullptr && line_codes % 2 == 0;
  }
  // Codes of windows are as they are, or widened to 16 bits.
  int64_t WindowCodeBytes() const { return gemm_wide_ != nullptr ? 2 : 1; }
  // The same for windows, one row of them after the other.
  template <typename Finish>
  void Run(const uint8_t* weights, const CodeWindows& windows, int64_t first_panel, int64_t panels,
           uint8_t* scratch, const Finish& finish) const {
    Operands operands = {};
    operands.weights = Weights(weights);
    operands.windows = windows;
    operands.sums = reinterpret_cast<int32_t*>(scratch);  // those of no window stay as they are
    Chunks(operands, first_panel, panels, finish);
  }

 private:
  struct Operands {
    const int8_t* weights;  // decoded, of all panels; or null
    int8_t* chunk;          // where those of a chunk are decoded, if so
    Activations a;
    ArrangedRows arranged;
    void* shift_scratch;
    CodeWindows windows;
    int32_t* sums;  // [rows][kChunkColumns]
  };

  template <typename Finish>
  void Chunks(const Operands& operands, int64_t first_panel, int64_t panels,
              const Finish& finish) const {
    for (int64_t p = 0; p < panels; p += kChunkPanels) {
      const int64_t count = panels - p < kChunkPanels ? panels - p : kChunkPanels;
      const int64_t column = (first_panel + p) * kPanelColumns;
      const int64_t left = matrix_.n - column;
      Chunk(operands, ChunkWeights(operands, first_panel + p, count), first_panel + p, count);
      finish(column, left < count * kPanelColumns ? left : count * kPanelColumns, operands.sums);
    }
  }

  const int8_t* Weights(const uint8_t* given) const {
    return weight_bytes_ > 0 ? reinterpret_cast<const int8_t*>(given) : panels_.data();
  }
  Operands Prepare(const uint8_t* codes, int64_t rows, uint8_t* scratch) const;
  const int8_t* ChunkWeights(const Operands& operands, int64_t first_panel, int64_t panels) const;
  void Chunk(const Operands& operands, const int8_t* weights, int64_t first_panel,
             int64_t panels) const;
  void WideChunk(const Operands& operands, int64_t first_panel, int64_t panels) const;
  void WindowsChunk(const Operands& operands, const int8_t* weights, int64_t first_panel,
                    int64_t panels) const;
  void KeepLines();
  void SumColumns();
  void DecodePanels(int64_t first, int64_t panels, int8_t* weights) const;

  PackedMatrix matrix_;
  bool is_unsigned_;
  int64_t lines_;
  int64_t panel_bytes_ = 0;   // of a decoded panel
  int64_t weight_bytes_ = 0;  // of those that Run is given
  UnpackKernel* unpack_;
  GemmKernel* gemm_;
  ArrangeKernel* arrange_;
  GemmShiftKernel* gemm_shift_;       // null where decoding to int8 is as fast
  GemmWindowsKernel* gemm_windows_;   // null where one of the others multiplies
  GemmWideKernel* gemm_wide_;         // the same
  ConvSumsKernel* sum_codes_;         // null where no kernel in use reads sums
  std::vector<int16_t> wide_panels_;  // decoded, for gemm_wide_
  std::vector<int8_t> panels_;        // decoded, where calls do not decode them
  std::vector<int32_t> totals_;       // of the columns of the weights, for gemm_windows_
};

}  // namespace edgefold
