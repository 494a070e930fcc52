// SPDX-License-Identifier: Apache-2.0
// Convolution with packed weights: the body of ShiftConv, without ONNX Runtime.
//
// An image becomes a zero-padded channel-last one (codes, or float). Where a group has a multiple
// of 16 output channels, or there is one group, windows become rows of a matrix product; else each
// panel of 16 output channels is convolved directly, channel by channel.
#pragma once

#include "base/activation_range.h"
#include "base/packed_matrix.h"
#include "base/parallel.h"
#include "base/scratch.h"
#include "kernels/conv_depthwise/conv_depthwise.h"
#include "kernels/conv_epilogue/conv_epilogue.h"
#include "kernels/conv_quantize/conv_quantize.h"
#include "kernels/conv_sums/conv_sums.h"
#include "kernels/gemm/gemm.h"
#include "kernels/gemm_float/gemm_float.h"
#include "kernels/gemm_shift/gemm_shift.h"
#include "kernels/gemv/gemv.h"
#include "kernels/unpack/unpack.h"
#include "ops/conv_shape.h"

namespace edgefold {

struct ConvInputs {
  const void* x;  // [batch][in_channels][spatial] float; operands where the range says so
  int64_t batch;
  ConvShape shape;
  const float* bias;  // [out_channels], or one value
  bool bias_is_scalar;
  float x_scale;  // > 0 unless activations stay float
  float* y;       // [batch][out_channels][spatial]
};

// Read-only once made; Run may be called from several threads at a time.
class Conv {
 public:
  // matrix.k == taps * in_channels / group and matrix.n == out_channels. `matrix` and `scales` must
  // outlive this object.
  Conv(const PackedMatrix& matrix, const float* scales, const ConvAttributes& attributes,
       ActivationRange range);

  // False when memory for the call could not be had.
  bool Run(const ConvInputs& inputs, const Parallel& parallel) const;

  const ConvAttributes& attributes() const { return attributes_; }
  const ActivationRange& range() const { return range_; }
  bool is_float() const { return range_.is_float(); }

 private:
  struct Call;      // what the tasks of one Run share
  struct GemmTask;  // a block of output pixels of some panels
  struct DirectTask;

  void PrepareImage(const Call& call) const;
  void FillRow(const Call& call, const uint8_t* x, int64_t pixels, int64_t first, int64_t channels,
               uint8_t* out) const;
  void FillImage(const Call& call, int64_t image) const;
  bool RunGemm(const Call& call, int64_t image) const;
  bool GemmBlock(const Call& call, const GemmTask& task) const;
  int64_t ShiftBytes(const Call& call, int64_t pixels) const;
  void GemmIntegers(const Call& call, const GemmTask& task, const uint8_t* rows,
                    uint8_t* memory) const;
  void GemmFloats(const Call& call, const GemmTask& task, const uint8_t* rows, float* memory) const;
  bool RunDirect(const Call& call, int64_t image) const;
  bool DirectPanel(const Call& call, int64_t image, int64_t panel, int64_t first_row,
                   int64_t rows) const;
  void GatherChannels(const Call& call, int64_t panel, uint8_t* out) const;
  void DirectRows(const Call& call, const DirectTask& task) const;
  void Finish(const Call& call, int64_t image, int64_t column, int64_t columns, int64_t first_pixel,
              int64_t pixels, const int32_t* acc, int64_t acc_stride) const;
  void FinishFloats(const Call& call, int64_t image, int64_t column, int64_t columns,
                    int64_t first_pixel, int64_t pixels, const float* product) const;

  PackedMatrix matrix_;
  const float* scales_;
  ConvAttributes attributes_;
  ActivationRange range_;
  bool direct_;
  UnpackKernel* unpack_;
  GemmKernel* gemm_;
  ArrangeKernel* arrange_;
  GemmShiftKernel* gemm_shift_;  // null where decoding to int8 is as fast
  GemvKernel* gemv_;
  GemmFloatKernel* gemm_float_;
  ConvQuantizeKernel* quantize_;
  ConvDepthwiseKernel* depthwise_;
  ConvEpilogueKernel* epilogue_;
  ConvSumsKernel* sum_codes_;
  bool gemm_reads_sums_;
};

}  // namespace edgefold
