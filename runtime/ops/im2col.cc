// SPDX-License-Identifier: Apache-2.0
#include "ops/im2col.h"

#include <algorithm>
#include <cstring>

namespace edgefold {
namespace {

// Whole vectors: what is written too far is written again, rightly, by the next copy.
inline void Copy(uint8_t* out, const uint8_t* in, int64_t bytes) {
  for (int64_t i = 0; i < bytes; i += kCopySlack) std::memcpy(out + i, in + i, kCopySlack);
}

inline void Clear(uint8_t* out, int64_t bytes) {
  for (int64_t i = 0; i < bytes; i += kCopySlack) std::memset(out + i, 0, kCopySlack);
}

}  // namespace

void BuildRows(const ConvAttributes& attributes, const ConvShape& shape, const WindowRuns& window,
               const uint8_t* image, int64_t pixel_bytes, int64_t first_pixel, int64_t rows,
               int64_t row_bytes, uint8_t* out) {
  const int64_t step = attributes.strides[2] * pixel_bytes;
  const int64_t used = window.runs * window.run_bytes;
  int64_t pixel = first_pixel;
  while (rows > 0) {
    const int64_t width = std::min(rows, shape.out[2] - pixel % shape.out[2]);
    const uint8_t* start = image + WindowStart(attributes, shape, pixel, pixel_bytes);
    for (int64_t i = 0; i < width; ++i) {
      uint8_t* row = out;
      for (int64_t r = 0; r < window.runs; ++r) {
        Copy(row, start + window.offsets[r], window.run_bytes);
        row += window.run_bytes;
      }
      Clear(row, row_bytes - used);
      start += step;
      out += row_bytes;
    }
    pixel += width;
    rows -= width;
  }
}

}  // namespace edgefold
