// SPDX-License-Identifier: Apache-2.0
// What the parts of one InvertedResidual::Run share. Included by the files of that class only.
#pragma once

#include "ops/inverted_residual.h"

namespace edgefold {

// Input rows that an output row reads.
inline int64_t Reach(const ConvAttributes& a) { return a.dilations[1] * (a.kernel[1] - 1) + 1; }

// Rows of the depthwise stage's padded input are counted from the first padding row on.
struct InvertedResidual::Plan {
  int64_t group_rows;    // output rows that are made together
  int64_t ring_rows;     // padded input rows that they read
  int64_t row_bytes;     // of a padded row
  int64_t block;         // pixels that go through a stage at once
  bool expands_at_once;  // all pixels of an image
  bool projects_at_once;
  // Bytes of the workspace's parts.
  int64_t ring;
  int64_t rows;
  int64_t product;
  int64_t tile;
  int64_t offsets;

  int64_t Bytes() const { return ring + rows + product + tile + offsets; }
};

struct InvertedResidual::Call {
  const InvertedResidualInputs& inputs;
  Plan plan;
  StageFinish::Constants expand;
  StageFinish::Constants depthwise;
  StageFinish::Constants project;
  const uint8_t* expand_weights;
  const uint8_t* project_weights;
  uint8_t* codes;    // memory for those of an image
  int64_t image;     // of the batch
  const uint8_t* x;  // its codes
};

struct InvertedResidual::Work {
  uint8_t* ring;     // [ring_rows][padded width][expanded channels]; padding columns are zero
  uint8_t* rows;     // [block] rows of a product
  uint8_t* product;  // scratch of a product, and sums of the depthwise stage
  uint8_t* tile;     // scratch of a finish
  int64_t* offsets;  // [taps] of the current output row
};

}  // namespace edgefold
