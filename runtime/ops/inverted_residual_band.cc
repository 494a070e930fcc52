// SPDX-License-Identifier: Apache-2.0
// A band of output rows: rows stream through the ring of the wide tensor and the three stages.
#include <algorithm>
#include <cstring>

#include "ops/inverted_residual_call.h"
#include "ops/tap_pairs.h"

namespace edgefold {

// `memory` is null, or that of the band before with the rows that it has filled.
bool InvertedResidual::RunBand(const Call& call, int64_t first_row, int64_t rows,
                               Scratch* memory) const {
  const Plan& plan = call.plan;
  const ConvAttributes& a = stages_.depthwise.attributes;
  const bool goes_on = *memory != nullptr;
  if (!goes_on) *memory = AllocateScratch(plan.Bytes());
  if (*memory == nullptr) return false;
  Work work = {};
  work.ring = memory->get();
  work.rows = work.ring + plan.ring;
  work.product = work.rows + plan.rows;
  work.tile = work.product + plan.product;
  work.offsets = reinterpret_cast<int64_t*>(work.tile + plan.tile);
  if (!goes_on) std::memset(work.ring, 0, static_cast<size_t>(plan.ring));

  const int64_t width = call.inputs.shape.out[2];
  int64_t filled = goes_on ? (first_row - 1) * a.strides[1] + Reach(a) : first_row * a.strides[1];
  for (int64_t row = first_row; row < first_row + rows; row += plan.group_rows) {
    const int64_t last = std::min(first_row + rows, row + plan.group_rows);
    const int64_t needed = (last - 1) * a.strides[1] + Reach(a);
    FillRing(call, work, std::max(filled, row * a.strides[1]), needed);
    filled = needed;
    for (int64_t pixel = row * width; pixel < last * width; pixel += plan.block) {
      ProjectRows(call, work, pixel, std::min(plan.block, last * width - pixel));
    }
  }
  return true;
}

// Padded input rows first .. last - 1, over those that are no longer read.
void InvertedResidual::FillRing(const Call& call, const Work& work, int64_t first,
                                int64_t last) const {
  const ConvAttributes& a = stages_.depthwise.attributes;
  const int64_t top = a.pads_begin[1];
  const int64_t bottom = top + call.inputs.shape.in[1];
  for (int64_t row = first; row < last; ++row) {
    if (row >= top && row < bottom) continue;
    uint8_t* outside = work.ring + row % call.plan.ring_rows * call.plan.row_bytes;
    std::memset(outside, 0, static_cast<size_t>(call.plan.row_bytes));
  }
  const int64_t from = std::max(first, top);
  const int64_t to = std::min(last, bottom);
  if (expand_) return ExpandRows(call, work, from - top, std::max<int64_t>(0, to - from));
  const int64_t width = call.inputs.shape.in[2];
  for (int64_t row = from; row < to; ++row) {
    uint8_t* out = work.ring + row % call.plan.ring_rows * call.plan.row_bytes;
    image_.Copy(call.x, (row - top) * width, width, out + a.pads_begin[2] * a.in_channels);
  }
}

// Rows of the image, to their places in the ring.
void InvertedResidual::ExpandRows(const Call& call, const Work& work, int64_t first,
                                  int64_t rows) const {
  const ConvAttributes& a = stages_.depthwise.attributes;
  const int64_t width = call.inputs.shape.in[2];
  for (int64_t p = first * width; p < (first + rows) * width; p += call.plan.block) {
    const int64_t pixels = std::min(call.plan.block, (first + rows) * width - p);
    const uint8_t* codes = image_.Rows(call.x, p, pixels, expand_->RowBytes(), work.rows);
    expand_->Run(call.expand_weights, codes, pixels, 0, stages_.expand.matrix.Panels(),
                 work.product, [&](int64_t column, int64_t columns, const int32_t* sums) {
                   for (int64_t i = 0; i < pixels;) {
                     const int64_t at = (p + i) % width;
                     const int64_t run = std::min(pixels - i, width - at);
                     const int64_t slot = ((p + i) / width + a.pads_begin[1]) % call.plan.ring_rows;
                     StageFinish::Target target = {};
                     target.y = work.ring + slot * call.plan.row_bytes +
                                (a.pads_begin[2] + at) * a.in_channels;
                     target.y_stride = a.in_channels;
                     finish_expand_.Run(call.expand, target, sums + i * CodeProduct::kChunkColumns,
                                        CodeProduct::kChunkColumns, run, column, columns,
                                        work.tile);
                     i += run;
                   }
                 });
  }
}

// The depthwise stage's codes of output pixels of one row, as rows of the projection.
void InvertedResidual::ConvolveRun(const Call& call, const Work& work, int64_t pixel,
                                   int64_t pixels, uint8_t* out) const {
  const ConvAttributes& a = stages_.depthwise.attributes;
  const int64_t row = pixel / call.inputs.shape.out[2];
  const int64_t column = pixel % call.inputs.shape.out[2];
  for (int64_t t = 0; t < a.Taps(); ++t) {
    const int64_t in_row = row * a.strides[1] + t / a.kernel[2] * a.dilations[1];
    const int64_t in_column = column * a.strides[2] + t % a.kernel[2] * a.dilations[2];
    work.offsets[t] =
        in_row % call.plan.ring_rows * call.plan.row_bytes + in_column * a.in_channels;
  }
  int32_t* sums = reinterpret_cast<int32_t*>(work.product);
  ConvDepthwiseArguments d = {};
  d.is_unsigned = stages_.depthwise.x.is_unsigned();
  d.step = a.strides[2] * a.in_channels;
  d.offsets = work.offsets;
  d.taps = a.Taps();
  d.pixels = pixels;
  d.acc = sums;
  d.acc_stride = StageFinish::kMaxColumns;
  d.panel_step = kPanelColumns;
  StageFinish::Target target = {};
  target.y = out;
  target.y_stride = project_.RowBytes();
  for (int64_t first = 0; first < a.in_channels; first += StageFinish::kMaxColumns) {
    const int64_t channels = std::min(StageFinish::kMaxColumns, a.in_channels - first);
    d.x = work.ring + first;
    d.weights = tap_pairs_.data() + first / kPanelColumns * TapPairValues(a.Taps());
    d.panels = CeilDiv(channels, kPanelColumns);
    depthwise_(d);
    finish_depthwise_.Run(call.depthwise, target, sums, d.acc_stride, pixels, first, channels,
                          work.tile);
  }
}

void InvertedResidual::ProjectRows(const Call& call, const Work& work, int64_t pixel,
                                   int64_t pixels) const {
  const int64_t width = call.inputs.shape.out[2];
  const int64_t row_bytes = project_.RowBytes();
  if (row_bytes != stages_.depthwise.attributes.out_channels) {
    std::memset(work.rows, 0, static_cast<size_t>(pixels * row_bytes));
  }
  for (int64_t i = 0; i < pixels;) {
    const int64_t run = std::min(pixels - i, width - (pixel + i) % width);
    ConvolveRun(call, work, pixel + i, run, work.rows + i * row_bytes);
    i += run;
  }
  const int64_t channels = stages_.project.attributes.out_channels;
  const int64_t out_pixels = call.inputs.shape.OutPixels();
  const int64_t first = (call.image * out_pixels + pixel) * channels;
  StageFinish::Target target = {};
  if (stages_.project.y.is_float() && stages_.project.y_last) {
    target.y = static_cast<float*>(call.inputs.y) + first;
    target.y_stride = channels;
  } else if (stages_.project.y.is_float()) {
    target.y = static_cast<float*>(call.inputs.y) + call.image * out_pixels * channels + pixel;
    target.y_stride = out_pixels;
  } else {
    target.y =
        static_cast<uint8_t*>(call.inputs.y) + (stages_.project.packed.y ? first / 2 : first);
    target.y_stride = channels;
  }
  if (stages_.project.residual != Residual::kNone) {
    target.residual = call.x + pixel * channels / (stages_.project.packed.residual ? 2 : 1);
  }
  project_.Run(call.project_weights, work.rows, pixels, 0, stages_.project.matrix.Panels(),
               work.product, [&](int64_t column, int64_t columns, const int32_t* sums) {
                 finish_project_.Run(call.project, target, sums, CodeProduct::kChunkColumns, pixels,
                                     column, columns, work.tile);
               });
}

}  // namespace edgefold
