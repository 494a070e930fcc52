// SPDX-License-Identifier: Apache-2.0
#include "ops/inverted_residual.h"

#include <algorithm>
#include <array>
#include <atomic>

#include "base/rounding.h"
#include "ops/inverted_residual_call.h"
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

// Decodes the weights that pixels meet in several blocks, and works out the constants of the
// stages. Returns the memory of all that, and of the codes of an image; null where it could not be
// had.
Scratch InvertedResidual::Prepare(const Parallel& parallel, Call* call) const {
  const InvertedResidualInputs& inputs = call->inputs;
  const bool one = inputs.batch == 1;
  const bool decodes_expand = expand_ && !(one && call->plan.expands_at_once);
  const bool decodes_project = !(one && call->plan.projects_at_once);
  const int64_t expand_bytes = decodes_expand ? expand_->WeightBytes() : 0;
  const int64_t weights = expand_bytes + (decodes_project ? project_.WeightBytes() : 0);
  const int64_t codes = Align(image_.Bytes(inputs.shape.InPixels()));
  Scratch memory =
      AllocateScratch(weights + codes +
                      4 * (finish_expand_.ConstantFloats() + finish_depthwise_.ConstantFloats() +
                           finish_project_.ConstantFloats()));
  if (memory == nullptr) return memory;
  call->codes = memory.get() + weights;
  if (decodes_expand) {
    expand_->DecodeWeights(memory.get(), parallel);
    call->expand_weights = memory.get();
  }
  if (decodes_project) {
    project_.DecodeWeights(memory.get() + expand_bytes, parallel);
    call->project_weights = memory.get() + expand_bytes;
  }
  float* constants = reinterpret_cast<float*>(call->codes + codes);
  float scale = inputs.x_scale;
  if (stages_.has_expand) {
    call->expand = finish_expand_.Prepare(inputs.expand, scale, 0.0f, constants);
    constants += finish_expand_.ConstantFloats();
    scale = inputs.expand.y_scale;
  }
  call->depthwise = finish_depthwise_.Prepare(inputs.depthwise, scale, 0.0f, constants);
  constants += finish_depthwise_.ConstantFloats();
  call->project =
      finish_project_.Prepare(inputs.project, inputs.depthwise.y_scale, inputs.x_scale, constants);
  return memory;
}

bool InvertedResidual::Run(const InvertedResidualInputs& inputs, const Parallel& parallel) const {
  if (inputs.batch == 0) return true;
  Call call = {inputs, MakePlan(inputs.shape), {}, {}, {}, nullptr, nullptr, nullptr, 0, nullptr};
  const Scratch memory = Prepare(parallel, &call);
  if (memory == nullptr) return false;
  const int64_t out_rows = inputs.shape.out[1];
  const int64_t share = CeilDiv(out_rows, BandsOf(stages_.depthwise.attributes, inputs.shape));
  std::atomic<bool> enough_memory{true};
  for (call.image = 0; call.image < inputs.batch; ++call.image) {
    call.x = image_.Codes(inputs.x, call.image, inputs.shape.InPixels(), inputs.x_scale, call.codes,
                          parallel);
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

}  // namespace edgefold
