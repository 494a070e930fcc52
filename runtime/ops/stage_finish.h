// SPDX-License-Identifier: Apache-2.0
// What follows the sums of a stage: scales, bias, activation, residual, and codes or floats.
#pragma once

#include "ops/conv_stage.h"

namespace edgefold {

// Read-only once made.
class StageFinish {
 public:
  explicit StageFinish(const ConvStage& stage);

  // One call's numbers. `memory` holds ConstantFloats() floats, which must outlive the object.
  struct Constants {
    const float* scales;
    const float* bias;
    float residual_scale;
    float y_scale;
    CodeEstimate estimate;
  };
  int64_t ConstantFloats() const { return 2 * padded_channels_; }
  Constants Prepare(const StageInputs& inputs, float x_scale, float residual_scale,
                    float* memory) const;

  // Where a run of pixels goes, and what is added to it. Channel-last pixels lie y_stride elements
  // apart (half as many bytes where the stage packs them); else y is the first pixel's place in
  // plane 0, and planes lie y_stride floats apart.
  struct Target {
    void* y;
    int64_t y_stride;
    const uint8_t* residual;  // of the first pixel, out_channels codes apart; null where none is
  };

  // Bytes of scratch for so many pixels.
  int64_t ScratchBytes(int64_t pixels) const;

  // `channels` channels from `channel` on, at most kMaxColumns, of sums that lie `stride` apart.
  static constexpr int64_t kMaxColumns = 64;
  void Run(const Constants& constants, const Target& target, const int32_t* sums, int64_t stride,
           int64_t pixels, int64_t channel, int64_t channels, uint8_t* scratch) const;

 private:
  int64_t ElementBytes() const { return range_.is_float() ? sizeof(float) : 1; }
  void RunInTiles(RequantizeArguments r, const Target& target, int64_t channel,
                  uint8_t* scratch) const;
  // Between packed pixels, from `first` on, and rows of kMaxColumns bytes; the channels of `r`.
  void UnpackRows(const uint8_t* packed, int64_t first, int64_t channel,
                  const RequantizeArguments& r, uint8_t* rows) const;
  void PackRows(const uint8_t* rows, int64_t first, int64_t channel, const RequantizeArguments& r,
                uint8_t* packed) const;

  Activation activation_;
  Residual place_;
  bool residual_is_unsigned_;
  CodeRange range_;
  bool in_planes_;
  PackedCodes packed_;
  const float* scales_;
  int64_t channels_;
  int64_t padded_channels_;
  RequantizeKernel* requantize_;
  EstimateForm polynomials_;
};

}  // namespace edgefold
