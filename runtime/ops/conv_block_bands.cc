// SPDX-License-Identifier: Apache-2.0
// The convolution of a band of output rows: by a matrix product of its windows, or directly.
#include <algorithm>
#include <cstring>

#include "base/scratch.h"
#include "ops/conv_block_call.h"
#include "ops/tap_pairs.h"

namespace edgefold {
namespace {

constexpr int64_t kWindowBytes = 64 * 1024;  // windows of a product, well within L2
constexpr int64_t kWindowsAtOnce = 64;       // about so many: their sums stay in L1
constexpr int64_t kDirectPixels = 32;        // all channels of their windows fit L1

struct Range {
  int64_t first;
  int64_t last;  // exclusive
};

// Output rows, or columns, whose windows reach the image: the sums of the others are zero.
Range Reaching(const ConvAttributes& a, const ConvShape& s, int d) {
  const int64_t reach = a.dilations[d] * (a.kernel[d] - 1) + 1;
  if (std::max(a.pads_begin[d], a.pads_end[d]) < reach) return {0, s.out[d]};
  const int64_t first = CeilDiv(std::max<int64_t>(0, a.pads_begin[d] + 1 - reach), a.strides[d]);
  const int64_t last = CeilDiv(a.pads_begin[d] + s.in[d], a.strides[d]);
  return {std::min(first, s.out[d]), std::min(last, s.out[d])};
}

// Of `range`, what lies in the `count` numbers from `first` on, counted from there.
Range Within(const Range& range, int64_t first, int64_t count) {
  const int64_t begin = std::clamp<int64_t>(range.first - first, 0, count);
  return {begin, std::clamp(range.last - first, begin, count)};
}

}  // namespace

// What the direct convolution of a band works with. Where the 16 channels of a panel are no
// neighbours in x, planes hold them side by side: [panels][inputs of a group][padded pixels][16].
struct ConvBlock::Direct {
  const uint8_t* x;     // of panel 0
  int64_t pixel_bytes;  // of x
  int64_t panel_bytes;  // from a panel's x to the next one's
  int64_t* offsets;     // [K]: bytes from a window's start
  int32_t* sums;        // [kDirectPixels][StageFinish::kMaxColumns]
  uint8_t* tile;        // scratch of the finish
};

WindowRuns ConvBlock::Runs(const ConvShape& shape, int64_t* offsets) const {
  const ConvAttributes& a = stage_.attributes;
  const int64_t taps = RunTaps();
  TapOffsets(a, shape, a.in_channels, offsets);
  for (int64_t r = 0; r < a.Taps() / taps; ++r) offsets[r] = offsets[r * taps];
  return {offsets, a.Taps() / taps, PartInputs() * taps};
}

// Some rows of windows at a time, read where they lie in the band.
bool ConvBlock::BandWindows(const Call& call, const Band& band, const Panels& panels) const {
  const ConvAttributes& a = stage_.attributes;
  const ConvShape& s = band.shape;
  const int64_t width = s.out[2];
  const int64_t block = std::max<int64_t>(1, kWindowsAtOnce / width);
  const int64_t sums = CodeProduct::WindowScratchBytes(block * width);
  const Scratch memory = AllocateScratch(sums + a.Taps() * 8 + finish_.ScratchBytes(block * width));
  if (memory == nullptr) return false;
  int64_t* offsets = reinterpret_cast<int64_t*>(memory.get() + sums);
  uint8_t* tile = reinterpret_cast<uint8_t*>(offsets + a.Taps());
  const WindowRuns runs = Runs(s, offsets);
  const Range rows = Within(Reaching(a, call.inputs.shape, 1), band.first_row, s.out[1]);
  const Range columns = Within(Reaching(a, call.inputs.shape, 2), band.first_column, width);
  CodeWindows w = {};
  w.width = columns.last - columns.first;
  w.step = a.strides[2] * a.in_channels;
  w.row_step = a.strides[1] * s.padded[2] * a.in_channels;
  w.offsets = runs.offsets;
  w.lines = runs.runs;
  w.line_codes = runs.run_bytes;
  w.pitch = width;
  for (int64_t row = 0; row < s.out[1]; row += block) {
    const int64_t height = std::min(block, s.out[1] - row);
    const int64_t pixels = height * width;
    const int64_t first = std::clamp(rows.first, row, row + height);
    w.height = w.width > 0 ? std::clamp(rows.last, first, row + height) - first : 0;
    w.first = (first - row) * width + columns.first;
    if (w.height * w.width < pixels) std::memset(memory.get(), 0, static_cast<size_t>(sums));
    const StageFinish::Target target = Target(call, band.FirstPixel() + row * width);
    for (int64_t part = 0; part < Parts(); ++part) {
      w.codes =
          band.x + (first * w.row_step + columns.first * w.step + FirstInput(part)) * CodeBytes();
      product_->Run(call.weights, w, part * PartPanels() + panels.first, panels.count, memory.get(),
                    [&](int64_t column, int64_t columns, const int32_t* of) {
                      finish_.Run(call.constants, target, of, CodeProduct::kChunkColumns, pixels,
                                  column, columns, tile);
                    });
    }
  }
  return true;
}

bool ConvBlock::BandProduct(const Call& call, const Band& band, const Panels& panels) const {
  const ConvAttributes& a = stage_.attributes;
  const int64_t row_bytes = product_->RowBytes();
  const int64_t fitting = std::max<int64_t>(16, kWindowBytes / row_bytes / 16 * 16);
  const int64_t block = std::min(band.Pixels(), fitting);
  const int64_t windows = CeilDiv(block * row_bytes + kCopySlack, 64) * 64;
  const int64_t product = product_->ScratchBytes(block, false);
  const Scratch memory =
      AllocateScratch(product + windows + a.Taps() * 8 + finish_.ScratchBytes(block));
  if (memory == nullptr) return false;
  uint8_t* rows = memory.get() + product;
  int64_t* offsets = reinterpret_cast<int64_t*>(rows + windows);
  uint8_t* tile = reinterpret_cast<uint8_t*>(offsets + a.Taps());
  const WindowRuns runs = Runs(band.shape, offsets);
  const int64_t first_pixel = band.FirstPixel();
  for (int64_t p = 0; p < band.Pixels(); p += block) {
    const int64_t pixels = std::min(block, band.Pixels() - p);
    const StageFinish::Target target = Target(call, first_pixel + p);
    for (int64_t part = 0; part < Parts(); ++part) {
      BuildRows(a, band.shape, runs, band.x + FirstInput(part), a.in_channels, p, pixels, row_bytes,
                rows);
      product_->Run(call.weights, rows, pixels, part * PartPanels() + panels.first, panels.count,
                    memory.get(), [&](int64_t column, int64_t columns, const int32_t* sums) {
                      finish_.Run(call.constants, target, sums, CodeProduct::kChunkColumns, pixels,
                                  column, columns, tile);
                    });
    }
  }
  return true;
}

bool ConvBlock::BandDirect(const Call& call, const Band& band) const {
  const ConvAttributes& a = stage_.attributes;
  const int64_t k = stage_.matrix.k;
  const int64_t per_group = a.GroupInputs();
  const bool gather = !a.Depthwise();
  const int64_t plane_bytes = band.shape.PaddedPixels() * kPanelColumns;
  const int64_t sums = kDirectPixels * StageFinish::kMaxColumns * 4;
  const int64_t tile = finish_.ScratchBytes(kDirectPixels);
  const int64_t panels = stage_.matrix.Panels();
  const int64_t planes = gather ? panels * per_group * plane_bytes : 0;
  const Scratch memory = AllocateScratch(sums + (k + a.Taps()) * 8 + tile + planes);
  if (memory == nullptr) return false;
  Direct direct = {};
  direct.pixel_bytes = gather ? kPanelColumns : a.in_channels;
  direct.panel_bytes = gather ? per_group * plane_bytes : kPanelColumns;
  direct.sums = reinterpret_cast<int32_t*>(memory.get());
  direct.offsets = reinterpret_cast<int64_t*>(memory.get() + sums);
  int64_t* taps = direct.offsets + k;
  direct.tile = reinterpret_cast<uint8_t*>(taps + a.Taps());
  uint8_t* gathered = direct.tile + tile;
  direct.x = gather ? gathered : band.x;
  TapOffsets(a, band.shape, direct.pixel_bytes, taps);
  for (int64_t t = 0; t < k; ++t) {
    direct.offsets[t] = taps[t / per_group] + t % per_group * plane_bytes;
  }
  for (int64_t p = 0; gather && p < panels; ++p) {
    GatherChannels(band, p, gathered + p * direct.panel_bytes);
  }
  const int64_t width = band.shape.out[2];
  for (int64_t row = 0; row < band.shape.out[1]; ++row) {
    for (int64_t column = 0; column < width; column += kDirectPixels) {
      DirectPixels(call, band, direct, row * width + column,
                   std::min(kDirectPixels, width - column));
    }
  }
  return true;
}

// All panels of some pixels of one row: their windows are read while in L1.
void ConvBlock::DirectPixels(const Call& call, const Band& band, const Direct& direct,
                             int64_t pixel, int64_t pixels) const {
  const ConvAttributes& a = stage_.attributes;
  const int64_t k = stage_.matrix.k;
  const StageFinish::Target target = Target(call, band.FirstPixel() + pixel);
  ConvDepthwiseArguments d = {};
  d.x = direct.x + WindowStart(a, band.shape, pixel, direct.pixel_bytes);
  d.is_unsigned = stage_.x.is_unsigned();
  d.step = a.strides[2] * direct.pixel_bytes;
  d.offsets = direct.offsets;
  d.taps = k;
  d.weights = tap_pairs_.data();
  d.pixels = pixels;
  d.acc = direct.sums;
  d.acc_stride = StageFinish::kMaxColumns;
  d.panel_step = direct.panel_bytes;
  for (int64_t first = 0; first < stage_.matrix.n; first += StageFinish::kMaxColumns) {
    const int64_t channels = std::min(StageFinish::kMaxColumns, stage_.matrix.n - first);
    d.panels = CeilDiv(channels, kPanelColumns);
    depthwise_(d);
    d.x += d.panels * direct.panel_bytes;
    d.weights += d.panels * TapPairValues(k);
    finish_.Run(call.constants, target, direct.sums, d.acc_stride, pixels, first, channels,
                direct.tile);
  }
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
