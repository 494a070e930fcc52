// SPDX-License-Identifier: Apache-2.0
#include "ops/inverted_residual.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <cstring>

#include "base/rounding.h"
#include "ops/tap_pairs.h"

namespace edgefold {
namespace {

// About so many pixels go through a stage at once: more weigh less on products, of which weights
// are read once for all, and more on the first-level cache.
constexpr int64_t kBlockPixels = 32;
constexpr int64_t kBlockPixelsInPlace = 48;  // where products need no copy of them
constexpr int64_t kMostBands = 8;            // of an image: enough for the cores of a small machine
constexpr int64_t kHaloShare = 16;  // of a band's expanded rows, at most one is computed twice
constexpr int64_t kRingSlack = 64;  // bytes that kernels may read past the ring

int64_t Align(int64_t bytes) { return CeilDiv(bytes, 64) * 64; }

// Input rows that an output row reads.
int64_t Reach(const ConvAttributes& a) { return a.dilations[1] * (a.kernel[1] - 1) + 1; }

// A band computes the rows at its upper border anew unless it goes on with the ring of the band
// before, so there are few.
int64_t BandsOf(const ConvAttributes& a, const ConvShape& s) {
  const int64_t halo = std::max<int64_t>(1, Reach(a) - a.strides[1]);
  return std::clamp<int64_t>(s.in[1] / kHaloShare / halo, 1, std::min(kMostBands, s.out[1]));
}

const ConvStage& FirstStage(const InvertedResidualStages& stages) {
  return stages.has_expand ? stages.expand : stages.depthwise;
}

}  // namespace

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

InvertedResidual::InvertedResidual(const InvertedResidualStages& stages)
    : stages_(stages),
      image_(FirstStage(stages).x, FirstStage(stages).attributes.in_channels,
             FirstStage(stages).x_last, FirstStage(stages).packed.x),
      project_(stages.project.matrix, stages.project.x.is_unsigned()),
      finish_expand_(stages.expand),
      finish_depthwise_(stages.depthwise),
      finish_project_(stages.project),
      tap_pairs_(TapPairs(stages.depthwise.matrix)),
      depthwise_(ConvDepthwiseKernels().Choose().run) {
  if (stages.has_expand) expand_.emplace(stages.expand.matrix, stages.expand.x.is_unsigned());
}

InvertedResidual::Plan InvertedResidual::MakePlan(const ConvShape& s) const {
  const ConvAttributes& a = stages_.depthwise.attributes;
  Plan plan = {};
  const int64_t at_once = project_.TakesRowsAsTheyLie() ? kBlockPixelsInPlace : kBlockPixels;
  plan.group_rows = std::min(s.out[1], CeilDiv(at_once, s.out[2]));
  plan.ring_rows = (plan.group_rows - 1) * a.strides[1] + Reach(a);
  plan.row_bytes = s.padded[2] * a.in_channels;
  const int64_t pixels = plan.group_rows * s.out[2];
  const int64_t blocks = std::max<int64_t>(1, (pixels + at_once / 2) / at_once);
  plan.block = CeilDiv(CeilDiv(pixels, blocks), 4) * 4;  // products take four rows at a time
  plan.ring = Align(plan.ring_rows * plan.row_bytes + kRingSlack);
  plan.rows = project_.RowBytes();
  const bool in_one_group = plan.group_rows == s.out[1];
  plan.expands_at_once = in_one_group && s.InPixels() <= plan.block;
  plan.projects_at_once = in_one_group && pixels <= plan.block;
  plan.product = project_.ScratchBytes(plan.block, plan.projects_at_once);
  if (expand_) {
    plan.rows = std::max(plan.rows, expand_->RowBytes());
    plan.product = std::max(plan.product, expand_->ScratchBytes(plan.block, plan.expands_at_once));
  }
  plan.rows = Align(plan.rows * plan.block);
  plan.tile =
      std::max({finish_expand_.ScratchBytes(plan.block), finish_depthwise_.ScratchBytes(plan.block),
                finish_project_.ScratchBytes(plan.block)});
  plan.offsets = a.Taps() * 8;
  return plan;
}

int64_t InvertedResidual::WorkspaceBytes(const ConvShape& shape) const {
  return MakePlan(shape).Bytes();
}

bool InvertedResidual::Run(const InvertedResidualInputs& inputs, const Parallel& parallel) const {
  if (inputs.batch == 0) return true;
  const int64_t in_pixels = inputs.shape.InPixels();
  const int64_t codes = Align(image_.Bytes(in_pixels));
  const Plan plan = MakePlan(inputs.shape);
  const bool one = inputs.batch == 1;
  const bool decodes_expand = expand_ && !(one && plan.expands_at_once);
  const bool decodes_project = !(one && plan.projects_at_once);
  const int64_t expand_bytes = decodes_expand ? expand_->WeightBytes() : 0;
  const int64_t weights = expand_bytes + (decodes_project ? project_.WeightBytes() : 0);
  const Scratch memory =
      AllocateScratch(weights + codes +
                      4 * (finish_expand_.ConstantFloats() + finish_depthwise_.ConstantFloats() +
                           finish_project_.ConstantFloats()));
  if (memory == nullptr) return false;
  uint8_t* x = memory.get() + weights;
  float* constants = reinterpret_cast<float*>(x + codes);
  Call call = {inputs, plan, {}, {}, {}, nullptr, nullptr, 0, nullptr};
  if (decodes_expand) {
    expand_->DecodeWeights(memory.get(), parallel);
    call.expand_weights = memory.get();
  }
  if (decodes_project) {
    project_.DecodeWeights(memory.get() + expand_bytes, parallel);
    call.project_weights = memory.get() + expand_bytes;
  }
  float scale = inputs.x_scale;
  if (stages_.has_expand) {
    call.expand = finish_expand_.Prepare(inputs.expand, scale, 0.0f, constants);
    constants += finish_expand_.ConstantFloats();
    scale = inputs.expand.y_scale;
  }
  call.depthwise = finish_depthwise_.Prepare(inputs.depthwise, scale, 0.0f, constants);
  constants += finish_depthwise_.ConstantFloats();
  call.project =
      finish_project_.Prepare(inputs.project, inputs.depthwise.y_scale, inputs.x_scale, constants);

  const int64_t out_rows = inputs.shape.out[1];
  const int64_t share = CeilDiv(out_rows, BandsOf(stages_.depthwise.attributes, inputs.shape));
  std::atomic<bool> enough_memory{true};
  for (call.image = 0; call.image < inputs.batch; ++call.image) {
    call.x = image_.Codes(inputs.x, call.image, in_pixels, inputs.x_scale, x, parallel);
    // rings[i] is what band i - 1 has left, where it is done: a thread that runs one after the
    // other computes no row twice. What comes too late for its band waits for the image's end.
    std::array<std::atomic<uint8_t*>, kMostBands + 1> rings = {};
    parallel.For(CeilDiv(out_rows, share), [&](size_t index) {
      const int64_t first = static_cast<int64_t>(index) * share;
      Scratch ring(rings[index].exchange(nullptr));
      if (!RunBand(call, first, std::min(share, out_rows - first), &ring)) enough_memory = false;
      rings[index + 1] = ring.release();
    });
    for (std::atomic<uint8_t*>& left : rings) FreeMemory()(left);
  }
  return enough_memory;
}

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
