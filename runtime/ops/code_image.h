// SPDX-License-Identifier: Apache-2.0
// The codes that a stage reads.
#pragma once

#include "base/activation_range.h"
#include "base/parallel.h"
#include "kernels/conv_quantize/conv_quantize.h"
#include "kernels/quantize/quantize.h"

namespace edgefold {

// Read-only once made.
class CodeImage {
 public:
  // `last`: float images lie channel-last; the range then has no steps. `packed`: codes are of four
  // bits, two a byte, of an even number of channels.
  CodeImage(const ActivationRange& range, int64_t channels, bool last, bool packed);

  bool is_float() const { return !range_.x_codes; }
  // Bytes that Codes writes for an image of so many pixels; 0 where images are codes already.
  int64_t Bytes(int64_t pixels) const;
  // Image `image` of x, channel-last: made in `memory`, or where it lies.
  const uint8_t* Codes(const void* x, int64_t image, int64_t pixels, float scale, uint8_t* memory,
                       const Parallel& parallel) const;
  // Copies `pixels` pixels of such an image, from `first` on, a byte a code.
  void Copy(const uint8_t* image, int64_t first, int64_t pixels, uint8_t* out) const;
  // The same as rows of `row_bytes` bytes, the rest of which is zero: made in `memory`, or where
  // they lie, if RowsLie.
  const uint8_t* Rows(const uint8_t* image, int64_t first, int64_t pixels, int64_t row_bytes,
                      uint8_t* memory) const;
  bool RowsLie(int64_t row_bytes) const { return row_bytes == channels_ && !packed_; }

 private:
  void QuantizePlanes(const float* image, int64_t pixels, float scale, uint8_t* codes,
                      const Parallel& parallel) const;
  void QuantizeInPlace(const float* values, int64_t count, float scale, uint8_t* codes,
                       const Parallel& parallel) const;

  ActivationRange range_;
  int64_t channels_;
  bool last_;
  bool packed_;
  ConvQuantizeKernel* quantize_planes_;
  QuantizeKernel* quantize_;
};

// Codes as 16-bit numbers.
void Widen(const uint8_t* codes, int64_t count, bool is_unsigned, int16_t* out);

}  // namespace edgefold
