// SPDX-License-Identifier: Apache-2.0
// What the parts of one ConvBlock::Run share. Included by the files of ConvBlock only.
#pragma once

#include "base/rounding.h"
#include "ops/conv_block.h"

namespace edgefold {

// Bytes that kernels and copies may read past a band; a last part reads on as if it were whole.
inline int64_t ConvBlock::BandSlack() const { return 64 + 2 * (spread_ ? spread_->inputs() : 0); }

struct ConvBlock::Call {
  const ConvBlockInputs& inputs;
  StageFinish::Constants constants;
  const uint8_t* weights;  // of product_; null where it meets all rows at once
  int64_t image;           // of the batch
  const uint8_t* x;        // its codes
};

// Some rows of the output, or, of an image of one row, some of its columns.
struct ConvBlock::Band {
  int64_t first_row;
  int64_t first_column;
  ConvShape shape;  // as if the band were the whole image
  uint8_t* x;       // [padded rows][padded width][in_channels] codes, then slack

  int64_t Pixels() const { return shape.OutPixels(); }
  int64_t FirstPixel() const { return first_row * shape.out[2] + first_column; }
};

struct ConvBlock::Panels {
  int64_t first;
  int64_t count;
};

}  // namespace edgefold
