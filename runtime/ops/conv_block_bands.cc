// SPDX-License-Identifier: Apache-2.0
// The convolution of a band of output rows: by a matrix product of its windows, or directly.
#include <algorithm>
#include <cstring>

#include "base/scratch.h"
#include "ops/conv_block_call.h"
#include "ops/im2col.h"
#include "ops/tap_pairs.h"

namespace edgefold {
namespace {

constexpr int64_t kWindowBytes = 64 * 1024;  // windows of a product, well within L2
constexpr int64_t kDirectPixels = 32;        // all channels of their windows fit L1

}  // namespace

bool ConvBlock::BandProduct(const Call& call, const Band& band, int64_t split,
                            int64_t splits) const {
  const ConvAttributes& a = stage_.attributes;
  const int64_t row_bytes = product_->RowBytes();
  const int64_t block =
      std::min(band.Pixels(), std::max<int64_t>(16, kWindowBytes / row_bytes / 16 * 16));
  const int64_t windows = CeilDiv(block * row_bytes + kCopySlack, 64) * 64;
  const int64_t product = product_->ScratchBytes(block);
  const int64_t offsets = a.Taps() * 8;
  const Scratch memory =
      AllocateScratch(product + windows + offsets * 2 + finish_.ScratchBytes(block));
  if (memory == nullptr) return false;
  uint8_t* rows = memory.get() + product;
  int64_t* taps = reinterpret_cast<int64_t*>(rows + windows);
  int64_t* runs = taps + a.Taps();
  uint8_t* tile = reinterpret_cast<uint8_t*>(runs + a.Taps());

  // Kernel positions of a line lie side by side where all channels belong to the group.
  TapOffsets(a, band.shape, a.in_channels, taps);
  const int64_t line = a.group == 1 && a.dilations[2] == 1 ? a.kernel[2] : 1;
  for (int64_t r = 0; r < a.Taps() / line; ++r) runs[r] = taps[r * line];
  const WindowRuns window = {runs, a.Taps() / line, a.GroupInputs() * line};

  const int64_t panels = stage_.matrix.Panels() / a.group;  // of a group
  const int64_t share =
      CeilDiv(CeilDiv(panels, CodeProduct::kChunkPanels), splits) * CodeProduct::kChunkPanels;
  const int64_t first_panel = split * share;
  const int64_t mine = std::min(share, panels - first_panel);
  if (mine <= 0) return true;
  const int64_t first_pixel = band.first_row * band.shape.out[2];
  for (int64_t p = 0; p < band.Pixels(); p += block) {
    const int64_t pixels = std::min(block, band.Pixels() - p);
    const StageFinish::Target target = Target(call, first_pixel + p);
    for (int64_t g = 0; g < a.group; ++g) {
      BuildRows(a, band.shape, window, band.x + g * a.GroupInputs(), a.in_channels, p, pixels,
                row_bytes, rows);
      product_->Run(rows, pixels, g * panels + first_panel, mine, memory.get(),
                    [&](int64_t column, int64_t columns, const int32_t* sums) {
                      finish_.Run(call.constants, target, sums, CodeProduct::kChunkColumns, pixels,
                                  column, columns, tile);
                    });
    }
  }
  return true;
}

// Some pixels at a time with all panels, so that their windows are read while in L1.
bool ConvBlock::BandDirect(const Call& call, const Band& band) const {
  const ConvAttributes& a = stage_.attributes;
  const int64_t per_group = a.GroupInputs();
  const int64_t panels = stage_.matrix.Panels();
  const bool gather = !a.Depthwise();
  const int64_t pixel_bytes = gather ? kPanelColumns : a.in_channels;
  const int64_t plane_bytes = band.shape.PaddedPixels() * kPanelColumns;
  const int64_t gathered = gather ? per_group * plane_bytes : 0;  // of a panel
  const int64_t k = stage_.matrix.k;
  const int64_t sums_bytes = kDirectPixels * kPanelColumns * 4;
  const Scratch memory = AllocateScratch(sums_bytes + (k + a.Taps()) * 8 +
                                         finish_.ScratchBytes(kDirectPixels) + panels * gathered);
  if (memory == nullptr) return false;
  int32_t* sums = reinterpret_cast<int32_t*>(memory.get());
  int64_t* offsets = reinterpret_cast<int64_t*>(memory.get() + sums_bytes);
  int64_t* taps = offsets + k;
  uint8_t* tile = reinterpret_cast<uint8_t*>(taps + a.Taps());
  uint8_t* planes = tile + finish_.ScratchBytes(kDirectPixels);
  TapOffsets(a, band.shape, pixel_bytes, taps);
  for (int64_t t = 0; t < k; ++t) {
    offsets[t] = taps[t / per_group] + t % per_group * plane_bytes;
  }
  if (gather) {
    for (int64_t p = 0; p < panels; ++p) GatherChannels(band, p, planes + p * gathered);
  }

  const int64_t width = band.shape.out[2];
  ConvDepthwiseArguments d = {};
  d.is_unsigned = stage_.x.is_unsigned();
  d.step = a.strides[2] * pixel_bytes;
  d.offsets = offsets;
  d.taps = k;
  d.acc = sums;
  for (int64_t row = 0; row < band.shape.out[1]; ++row) {
    for (int64_t column = 0; column < width; column += kDirectPixels) {
      const int64_t pixel = row * width + column;
      const StageFinish::Target target = Target(call, band.first_row * width + pixel);
      const int64_t start = WindowStart(a, band.shape, pixel, pixel_bytes);
      d.pixels = std::min(kDirectPixels, width - column);
      for (int64_t p = 0; p < panels; ++p) {
        const int64_t channel = p * kPanelColumns;
        d.x = start + (gather ? planes + p * gathered : band.x + channel);
        d.weights = tap_pairs_.data() + p * TapPairValues(k);
        depthwise_(d);
        finish_.Run(call.constants, target, sums, kPanelColumns, d.pixels, channel,
                    std::min<int64_t>(kPanelColumns, stage_.matrix.n - channel), tile);
      }
    }
  }
  return true;
}

// out[i][pixel][c] = input channel i of the group that column c of the panel belongs to.
void ConvBlock::GatherChannels(const Band& band, int64_t panel, uint8_t* out) const {
  const ConvAttributes& a = stage_.attributes;
  const int64_t pixels = band.shape.PaddedPixels();
  int64_t first[kPanelColumns];  // channel of the group
  for (int64_t c = 0; c < kPanelColumns; ++c) {
    const int64_t channel = std::min(panel * kPanelColumns + c, a.out_channels - 1);
    first[c] = channel / a.GroupOutputs() * a.GroupInputs();
  }
  for (int64_t i = 0; i < a.GroupInputs(); ++i) {
    const uint8_t* pixel = band.x + i;
    for (int64_t p = 0; p < pixels; ++p, pixel += a.in_channels) {
      for (int c = 0; c < kPanelColumns; ++c) *out++ = pixel[first[c]];
    }
  }
}

}  // namespace edgefold
