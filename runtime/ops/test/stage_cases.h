// SPDX-License-Identifier: Apache-2.0
// Random stages for the tests of ConvBlock and InvertedResidual, and the definition they must meet.
#pragma once

#include <string>
#include <vector>

#include "base/parallel.h"
#include "ops/conv_stage.h"
#include "ops/four_bit_codes.h"
#include "selftest.h"

namespace edgefold::selftest {

// A stage and its storage. `shift`: few-bit weights with shifts, else 8-bit ones.
struct StageCase {
  StageCase(Random& random, const ConvAttributes& attributes, bool shift, CodeRange x, CodeRange y,
            Activation activation, Residual residual);
  StageCase(const StageCase&) = delete;

  RandomMatrix matrix;
  std::vector<float> scales;
  std::vector<float> bias;
  ConvStage stage = {};
  StageInputs inputs = {};
};

// Two spatial dimensions; same kernel, stride, dilation and padding in both.
ConvAttributes Square(int64_t in_channels, int64_t out_channels, int64_t kernel, int64_t stride,
                      int64_t pad, int64_t group, int64_t dilation = 1);

// Random codes of a range, as bytes.
std::vector<uint8_t> RandomCodes(Random& random, CodeRange range, int64_t size);

// An even number of codes of four bits, two a byte.
std::vector<uint8_t> Packed(const std::vector<uint8_t>& codes);

// [pixels][channels] to [channels][pixels].
std::vector<float> Planes(const float* x, int64_t channels, int64_t pixels);

// Channel-first float images that quantization with `scale` makes these channel-last codes.
std::vector<float> ImageOfCodes(const std::vector<uint8_t>& codes, CodeRange range, int64_t batch,
                                int64_t pixels, int64_t channels, float scale);

// One image by the definition in conv_stage.h, one channel of one pixel at a time, channel-last:
// bytes of codes, or of floats where y is float.
std::vector<uint8_t> DefinedStage(const StageCase& c, const ConvShape& shape, const uint8_t* x,
                                  float x_scale, const uint8_t* residual, float residual_scale);

// Tasks in descending order: what depends on another task's work shows. On two threads where races
// are looked for.
Parallel Backwards();

// "name_isa" of the instruction set in use.
Tally TallyOf(const std::string& name);

inline constexpr Activation kNoActivation = {ActivationKind::kClip, -__builtin_inff(),
                                             __builtin_inff()};
inline constexpr Activation kRelu6 = {ActivationKind::kClip, 0.0f, 6.0f};
inline constexpr Activation kHardSwish = {ActivationKind::kHardSwish, 1.0f / 6, 0.5f};
inline constexpr CodeRange kUnsigned = {0, 255};
inline constexpr CodeRange kSigned = {-127, 127};
inline constexpr CodeRange kFourBits = {0, kFourBitUnsignedHigh};
inline constexpr CodeRange kSignedFourBits = {kFourBitLow, kFourBitHigh};
inline constexpr CodeRange kFloats = {};

}  // namespace edgefold::selftest
