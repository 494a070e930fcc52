// SPDX-License-Identifier: Apache-2.0
// y = x . W * scales + bias for packed W: the body of ShiftMatMul, without ONNX Runtime.
#pragma once

#include "base/activation_range.h"
#include "base/packed_matrix.h"
#include "base/parallel.h"
#include "kernels/activation/activation.h"
#include "kernels/conv_sums/conv_sums.h"
#include "kernels/gemm_float/gemm_float.h"
#include "kernels/quantize/quantize.h"
#include "ops/panel_product.h"

namespace edgefold {

struct LinearInputs {
  const void* x;  // [rows][K] float; operands where the range says so
  int64_t rows;
  const float* bias;  // [N], or one value
  bool bias_is_scalar;
  float x_scale;                 // 0: one scale a row, found at run time
  const Activation* activation;  // of what the product and the bias give; or null
  const float* residual;         // [rows][N], added last; or null
  float* y;                      // [rows][N]
};

// Read-only once made; Run may be called from several threads at a time.
class Linear {
 public:
  // `matrix` and `scales` must outlive this object.
  Linear(const PackedMatrix& matrix, const float* scales, ActivationRange range);

  // False when memory for the call could not be had.
  bool Run(const LinearInputs& inputs, const Parallel& parallel) const;

  const PackedMatrix& matrix() const { return matrix_; }
  const ActivationRange& range() const { return range_; }

 private:
  struct Call;  // what the tasks of one Run share

  bool RunFloat(const LinearInputs& inputs, const Parallel& parallel) const;
  bool RunQuantized(const LinearInputs& inputs, const Parallel& parallel) const;
  void Prepare(const Call& call, int64_t first, int64_t rows) const;
  void Quantize(const Call& call, int64_t first, int64_t rows) const;
  void TakeOperands(const Call& call, int64_t first, int64_t rows) const;
  RowTile Tile(const Call& call, int64_t first) const;
  bool FloatTile(const LinearInputs& inputs, int64_t panel, int64_t first_row, int64_t rows) const;
  void Finish(const LinearInputs& inputs, int64_t panel, int64_t panels, int64_t first_row,
              int64_t rows) const;

  PackedMatrix matrix_;
  const float* scales_;
  ActivationRange range_;  // steps padded to whole groups
  PanelProduct product_;   // of quantized rows
  UnpackKernel* unpack_;
  QuantizeKernel* quantize_;
  ConvSumsKernel* sum_codes_;
  GemmFloatKernel* gemm_float_;
  ActivationKernel* activate_;
};

}  // namespace edgefold
