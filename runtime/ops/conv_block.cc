// SPDX-License-Identifier: Apache-2.0
#include "ops/conv_block.h"

#include <algorithm>
#include <atomic>
#include <cstring>

#include "base/scratch.h"
#include "ops/conv_block_call.h"
#include "ops/tap_pairs.h"

namespace edgefold {
namespace {

constexpr int64_t kRowsOfBlock = 128;       // of a pointwise product
constexpr int64_t kBlockBytes = 64 * 1024;  // rows of a pointwise product, well within L2
constexpr int64_t kBandPixels = 256;        // of the output, at least, where there are as many
constexpr int64_t kTasksWanted = 4;         // enough for the cores of a small machine

bool NeedsGather(const ConvAttributes& a) {
  return a.group > 1 && a.GroupOutputs() % kPanelColumns != 0 && !SpreadGroups::Applies(a);
}

}  // namespace

ConvBlock::ConvBlock(const ConvStage& stage)
    : stage_(stage),
      image_(stage.x, stage.attributes.in_channels, stage.x_last, stage.packed.x),
      finish_(stage),
      depthwise_(ConvDepthwiseKernels().Choose().run) {
  if (NeedsGather(stage.attributes)) {
    tap_pairs_ = TapPairs(stage.matrix);
    return;
  }
  if (SpreadGroups::Applies(stage.attributes)) spread_.emplace(stage.matrix, stage.attributes);
  const int64_t lines = stage.attributes.Taps() / RunTaps();
  product_.emplace(spread_ ? spread_->matrix() : stage.matrix, stage.x.is_unsigned(), lines);
  reads_windows_ = product_->TakesWindows(RunTaps() * PartInputs());
}

// Kernel positions that lie side by side in x: those of a line, where all channels belong to the
// group.
int64_t ConvBlock::RunTaps() const {
  const ConvAttributes& a = stage_.attributes;
  return a.group == 1 && a.dilations[2] == 1 ? a.kernel[2] : 1;
}

bool ConvBlock::Run(const ConvBlockInputs& inputs, const Parallel& parallel) const {
  if (inputs.batch == 0) return true;
  const int64_t pixels = inputs.shape.InPixels();
  const int64_t codes = CeilDiv(image_.Bytes(pixels), 64) * 64;
  const bool pointwise = stage_.attributes.Pointwise() && stage_.attributes.group == 1;
  const int64_t out_pixels = inputs.shape.OutPixels();
  const bool at_once = pointwise && inputs.batch == 1 && PointwiseRows(out_pixels) == out_pixels;
  const int64_t weights = product_ && !at_once ? product_->WeightBytes() : 0;
  const Scratch memory = AllocateScratch(weights + codes + finish_.ConstantFloats() * 4);
  if (memory == nullptr) return false;
  uint8_t* x = memory.get() + weights;
  float* constants = reinterpret_cast<float*>(x + codes);
  Call call = {inputs, {}, at_once ? nullptr : memory.get(), 0, nullptr};
  if (weights > 0) product_->DecodeWeights(memory.get(), parallel);
  call.constants = finish_.Prepare(inputs.stage, inputs.x_scale, inputs.residual_scale, constants);
  for (call.image = 0; call.image < inputs.batch; ++call.image) {
    call.x = image_.Codes(inputs.x, call.image, pixels, inputs.x_scale, x, parallel);
    if (!(pointwise ? RunPointwise(call, parallel) : RunBands(call, parallel))) return false;
  }
  return true;
}

// Output pixel `pixel` of the call's image.
StageFinish::Target ConvBlock::Target(const Call& call, int64_t pixel) const {
  const int64_t channels = stage_.attributes.out_channels;
  const int64_t pixels = call.inputs.shape.OutPixels();
  const int64_t first = (call.image * pixels + pixel) * channels;  // channel-last
  StageFinish::Target target = {};
  if (stage_.residual != Residual::kNone) {
    target.residual = static_cast<const uint8_t*>(call.inputs.residual) +
                      (stage_.packed.residual ? first / 2 : first);
  }
  if (stage_.y.is_float() && stage_.y_last) {
    target.y = static_cast<float*>(call.inputs.y) + first;
    target.y_stride = channels;
  } else if (stage_.y.is_float()) {
    target.y = static_cast<float*>(call.inputs.y) + call.image * pixels * channels + pixel;
    target.y_stride = pixels;
  } else {
    target.y = static_cast<uint8_t*>(call.inputs.y) + (stage_.packed.y ? first / 2 : first);
    target.y_stride = channels;
  }
  return target;
}

// Of a task.
int64_t ConvBlock::PointwiseRows(int64_t pixels) const {
  const int64_t fitting = std::max<int64_t>(16, kBlockBytes / product_->RowBytes() / 16 * 16);
  return std::min({pixels, fitting, kRowsOfBlock});
}

bool ConvBlock::RunPointwise(const Call& call, const Parallel& parallel) const {
  const int64_t pixels = call.inputs.shape.OutPixels();
  const int64_t block = PointwiseRows(pixels);
  const int64_t blocks = CeilDiv(pixels, block);
  const int64_t chunks = CeilDiv(stage_.matrix.Panels(), CodeProduct::kChunkPanels);
  const int64_t splits = std::min(chunks, CeilDiv(kTasksWanted, blocks));
  const int64_t share = CeilDiv(chunks, splits) * CodeProduct::kChunkPanels;
  std::atomic<bool> enough_memory{true};
  parallel.For(blocks * splits, [&](size_t index) {
    const int64_t first = static_cast<int64_t>(index) / splits * block;
    const int64_t panel = static_cast<int64_t>(index) % splits * share;
    const int64_t panels = std::min(share, stage_.matrix.Panels() - panel);
    if (panels <= 0) return;
    if (!PointwiseBlock(call, first, std::min(block, pixels - first), panel, panels)) {
      enough_memory = false;
    }
  });
  return enough_memory;
}

bool ConvBlock::PointwiseBlock(const Call& call, int64_t first_pixel, int64_t pixels,
                               int64_t first_panel, int64_t panels) const {
  const int64_t row_bytes = product_->RowBytes();
  const int64_t copied = image_.RowsLie(row_bytes) ? 0 : RoundUp(pixels * row_bytes, 64);
  const int64_t product = product_->ScratchBytes(pixels, call.weights == nullptr);
  const Scratch memory = AllocateScratch(product + copied + finish_.ScratchBytes(pixels));
  if (memory == nullptr) return false;
  uint8_t* copy = memory.get() + product;
  uint8_t* tile = copy + copied;
  const uint8_t* codes = image_.Rows(call.x, first_pixel, pixels, row_bytes, copy);
  const StageFinish::Target target = Target(call, first_pixel);
  product_->Run(call.weights, codes, pixels, first_panel, panels, memory.get(),
                [&](int64_t column, int64_t columns, const int32_t* sums) {
                  finish_.Run(call.constants, target, sums, CodeProduct::kChunkColumns, pixels,
                              column, columns, tile);
                });
  return true;
}

bool ConvBlock::RunBands(const Call& call, const Parallel& parallel) const {
  const ConvAttributes& a = stage_.attributes;
  const ConvShape& s = call.inputs.shape;
  const int d = s.padded[1] == 1 ? 2 : 1;  // bands are of columns where there is but one row
  const int64_t reach = a.dilations[d] * (a.kernel[d] - 1) + 1;
  const int64_t wanted = d == 1 ? CeilDiv(kBandPixels, s.out[2]) : std::max(kBandPixels, reach);
  const int64_t lines = std::min(s.out[d], wanted);
  const int64_t bands = CeilDiv(s.out[d], lines);
  const int64_t part_panels = direct() ? 1 : PartPanels();
  const int64_t chunks = CeilDiv(part_panels, CodeProduct::kChunkPanels);
  const int64_t share =
      CeilDiv(chunks, CeilDiv(kTasksWanted, bands)) * CodeProduct::kChunkPanels;  // of a task
  const int64_t splits = CeilDiv(part_panels, share);
  std::atomic<bool> enough_memory{true};
  parallel.For(bands * splits, [&](size_t index) {
    const int64_t first = static_cast<int64_t>(index) / splits * lines;
    Band band = {d == 1 ? first : 0, d == 2 ? first : 0, s, nullptr};
    band.shape.out[d] = std::min(lines, s.out[d] - first);
    band.shape.padded[d] = (band.shape.out[d] - 1) * a.strides[d] + reach;
    const int64_t codes = band.shape.PaddedPixels() * a.in_channels;
    const Scratch memory = AllocateScratch(codes * CodeBytes() + BandSlack());
    band.x = memory.get();
    if (band.x == nullptr) {
      enough_memory = false;
      return;
    }
    FillBand(call, band);
    const int64_t panel = static_cast<int64_t>(index) % splits * share;
    const Panels panels = {panel, std::min(share, part_panels - panel)};
    const bool done = direct()         ? BandDirect(call, band)
                      : reads_windows_ ? BandWindows(call, band, panels)
                                       : BandProduct(call, band, panels);
    if (!done) enough_memory = false;
  });
  return enough_memory;
}

// The input of the band's windows; what lies outside the image is zero.
void ConvBlock::FillBand(const Call& call, const Band& band) const {
  const ConvAttributes& a = stage_.attributes;
  const int64_t bytes = CodeBytes();
  const int64_t width = call.inputs.shape.in[2];
  const int64_t start = band.first_column * a.strides[2] - a.pads_begin[2];
  const int64_t end = start + band.shape.padded[2];
  const int64_t column = std::clamp<int64_t>(start, 0, width);
  const int64_t pixels = std::clamp<int64_t>(end, column, width) - column;
  const int64_t in_row = pixels * a.in_channels;
  const int64_t left = std::clamp<int64_t>(-start, 0, end - start) * a.in_channels * bytes;
  const int64_t right = band.shape.padded[2] * a.in_channels * bytes - left - in_row * bytes;
  const int64_t first = band.first_row * a.strides[1] - a.pads_begin[1];
  uint8_t* out = band.x;
  for (int64_t row = first; row < first + band.shape.padded[1]; ++row) {
    if (row < 0 || row >= call.inputs.shape.in[1]) {
      std::memset(out, 0, static_cast<size_t>(left + in_row * bytes + right));
    } else {
      std::memset(out, 0, static_cast<size_t>(left));
      if (bytes == 1) {
        image_.Copy(call.x, row * width + column, pixels, out + left);
      } else {  // from where they lie, or the upper half of their place, ahead of what is written
        const uint8_t* codes =
            image_.Rows(call.x, row * width + column, pixels, a.in_channels, out + left + in_row);
        Widen(codes, in_row, stage_.x.is_unsigned(), reinterpret_cast<int16_t*>(out + left));
      }
      std::memset(out + left + in_row * bytes, 0, static_cast<size_t>(right));
    }
    out += left + in_row * bytes + right;
  }
  std::memset(out, 0, static_cast<size_t>(BandSlack()));
}

}  // namespace edgefold
