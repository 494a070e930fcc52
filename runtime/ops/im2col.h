// SPDX-License-Identifier: Apache-2.0
// Windows of a padded channel-last image as rows of a matrix.
#pragma once

#include <cstdint>

#include "ops/conv_shape.h"

namespace edgefold {

// Bytes that a copy may read or write past its end.
inline constexpr int64_t kCopySlack = 16;

// A row is `runs` pieces of run_bytes, found at offsets[r] bytes from the window's start.
struct WindowRuns {
  const int64_t* offsets;
  int64_t runs;
  int64_t run_bytes;
};

// Writes rows of row_bytes (>= runs * run_bytes, the rest zero) for output pixels first_pixel ...
// of the image whose pixels lie pixel_bytes apart. Image and rows end in kCopySlack spare bytes.
void BuildRows(const ConvAttributes& attributes, const ConvShape& shape, const WindowRuns& window,
               const uint8_t* image, int64_t pixel_bytes, int64_t first_pixel, int64_t rows,
               int64_t row_bytes, uint8_t* out);

}  // namespace edgefold
