// SPDX-License-Identifier: Apache-2.0
#include "ops/code_image.h"

#include <algorithm>
#include <cstring>

#include "base/packed_matrix.h"
#include "base/rounding.h"
#include "ops/four_bit_codes.h"

namespace edgefold {
namespace {

constexpr int64_t kPixelsPerTask = 512;
constexpr int64_t kValuesPerTask = 16384;  // a multiple of the quantizer's row padding
constexpr int64_t kChannelsAtOnce = 16;    // as many streams as the caches follow
constexpr int64_t kPiece = 16;             // bytes of one instruction

template <typename Code>
void WidenAll(const Code* codes, int64_t count, int16_t* out) {
  for (int64_t i = 0; i < count; ++i) out[i] = codes[i];
}

// Rows of `bytes` bytes to rows of `row_bytes`, the rest of which is zero.
void PadRows(const uint8_t* rows, int64_t bytes, int64_t count, int64_t row_bytes, uint8_t* out) {
  for (int64_t r = 0; r < count; ++r, rows += bytes, out += row_bytes) {
    if (bytes < kPiece || row_bytes - bytes > kPiece) {
      std::memcpy(out, rows, static_cast<size_t>(bytes));
      std::memset(out + bytes, 0, static_cast<size_t>(row_bytes - bytes));
      continue;
    }
    // Calls cost more than such copies: pieces of a fixed size, the last one over the one before.
    std::memset(out + row_bytes - kPiece, 0, kPiece);
    for (int64_t i = 0; i + kPiece < bytes; i += kPiece) std::memcpy(out + i, rows + i, kPiece);
    std::memcpy(out + bytes - kPiece, rows + bytes - kPiece, kPiece);
  }
}

}  // namespace

CodeImage::CodeImage(const ActivationRange& range, int64_t channels, bool last, bool packed)
    : range_(range),
      channels_(channels),
      last_(last),
      packed_(packed),
      quantize_planes_(ConvQuantizeKernels().Choose().run),
      quantize_(QuantizeKernels().Choose().run) {}

int64_t CodeImage::Bytes(int64_t pixels) const {
  return is_float() ? RoundUp(pixels * channels_, kGroupDepth) : 0;
}

const uint8_t* CodeImage::Codes(const void* x, int64_t image, int64_t pixels, float scale,
                                uint8_t* memory, const Parallel& parallel) const {
  const int64_t first = image * pixels * channels_;
  if (!is_float()) return static_cast<const uint8_t*>(x) + (packed_ ? first / 2 : first);
  const float* values = static_cast<const float*>(x) + first;
  if (last_) {
    QuantizeInPlace(values, pixels * channels_, scale, memory, parallel);
  } else {
    QuantizePlanes(values, pixels, scale, memory, parallel);
  }
  return memory;
}

void CodeImage::Copy(const uint8_t* image, int64_t first, int64_t pixels, uint8_t* out) const {
  const int64_t count = pixels * channels_;
  if (packed_) {
    UnpackCodes(image + first * channels_ / 2, count, range_.is_unsigned(), out);
  } else {
    std::memcpy(out, image + first * channels_, static_cast<size_t>(count));
  }
}

const uint8_t* CodeImage::Rows(const uint8_t* image, int64_t first, int64_t pixels,
                               int64_t row_bytes, uint8_t* memory) const {
  if (RowsLie(row_bytes)) return image + first * channels_;
  if (!packed_) {
    PadRows(image + first * channels_, channels_, pixels, row_bytes, memory);
  } else if (row_bytes == channels_) {
    Copy(image, first, pixels, memory);
  } else {
    for (int64_t r = 0; r < pixels; ++r) {
      uint8_t* row = memory + r * row_bytes;
      Copy(image, first + r, 1, row);
      std::memset(row + channels_, 0, static_cast<size_t>(row_bytes - channels_));
    }
  }
  return memory;
}

void CodeImage::QuantizePlanes(const float* image, int64_t pixels, float scale, uint8_t* codes,
                               const Parallel& parallel) const {
  parallel.For(CeilDiv(pixels, kPixelsPerTask), [&](size_t index) {
    const int64_t first = static_cast<int64_t>(index) * kPixelsPerTask;
    ConvQuantizeArguments q = {};
    q.channel_stride = pixels;
    q.pixels = std::min(kPixelsPerTask, pixels - first);
    q.scale = scale;
    q.low = range_.low;
    q.high = range_.high;
    q.pixel_stride = channels_;
    for (int64_t c = 0; c < channels_; c += kChannelsAtOnce) {
      q.x = image + c * pixels + first;
      q.channels = std::min(kChannelsAtOnce, channels_ - c);
      q.steps = range_.steps.empty() ? nullptr : range_.steps.data() + c;
      q.codes = codes + first * channels_ + c;
      quantize_planes_(q);
    }
  });
}

// Values that lie as their codes will: one long row.
void CodeImage::QuantizeInPlace(const float* values, int64_t count, float scale, uint8_t* codes,
                                const Parallel& parallel) const {
  parallel.For(CeilDiv(count, kValuesPerTask), [&](size_t index) {
    const int64_t first = static_cast<int64_t>(index) * kValuesPerTask;
    float row_scale = 0.0f;
    int32_t sum = 0;
    QuantizeArguments q = {};
    q.x = values + first;
    q.rows = 1;
    q.columns = std::min(kValuesPerTask, count - first);
    q.static_scale = scale;
    q.low = range_.low;
    q.high = range_.high;
    q.codes = codes + first;
    q.stride = RoundUp(q.columns, kGroupDepth);
    q.row_scales = &row_scale;
    q.sums = &sum;
    quantize_(q);
  });
}

void Widen(const uint8_t* codes, int64_t count, bool is_unsigned, int16_t* out) {
  if (is_unsigned) return WidenAll(codes, count, out);
  WidenAll(reinterpret_cast<const int8_t*>(codes), count, out);
}

}  // namespace edgefold
