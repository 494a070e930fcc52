// SPDX-License-Identifier: Apache-2.0
#include "ops/code_product.h"

#include <algorithm>

#include "base/rounding.h"
#include "ops/choose_product.h"
#include "ops/code_image.h"
#include "ops/tap_pairs.h"

namespace edgefold {
namespace {

int64_t Align(int64_t bytes) { return RoundUp(bytes, 64); }

constexpr int64_t kRowStart = 0;
constexpr int64_t kDecodedAtOnce = 64 * 1024;  // bytes of a task
// Smaller weights stay decoded: a network of such layers has them in its caches, and decoding them
// in every call takes 3 % of a ResNet on CIFAR.
constexpr int64_t kKeptBytes = 40 * 1024;

}  // namespace

CodeProduct::CodeProduct(const PackedMatrix& matrix, bool is_unsigned, int64_t lines)
    : matrix_(matrix),
      is_unsigned_(is_unsigned),
      lines_(lines),
      unpack_(UnpackKernels().Choose().run),
      gemm_(GemmKernels().Choose().run),
      arrange_(ArrangeKernels().Choose().run),
      gemm_shift_(ChooseGemmShift(matrix)),
      gemm_windows_(ChooseGemmWindows()),
      gemm_wide_(ChooseGemmWide()),
      sum_codes_(is_unsigned ? nullptr : ChooseSums()) {
  // Of less than a group, gemm_shift would multiply the padding too.
  if (gemm_wide_ != nullptr && matrix.k < kGroupDepth) gemm_shift_ = nullptr;
  if (gemm_shift_ != nullptr) {
    gemm_windows_ = nullptr;
    gemm_wide_ = nullptr;
    return;
  }
  if (gemm_wide_ != nullptr) {
    wide_panels_ = TapPairs(matrix);
    return;
  }
  if (gemm_windows_ != nullptr) sum_codes_ = nullptr;
  if (gemm_windows_ != nullptr && matrix.k / lines % kUnitDepth != 0) {
    KeepLines();
    return;
  }
  panel_bytes_ = matrix.Units() * kUnitCodes;
  weight_bytes_ = matrix.Panels() * panel_bytes_;
  if (gemm_windows_ != nullptr) SumColumns();
  if (weight_bytes_ > kKeptBytes) return;
  panels_.resize(weight_bytes_);
  DecodePanels(0, matrix.Panels(), panels_.data());
  weight_bytes_ = 0;
}

// Panels whose lines begin with a unit, zero beyond N, and the sums of their columns.
void CodeProduct::KeepLines() {
  const int64_t line = matrix_.k / lines_;
  const int64_t line_units = CeilDiv(line, kUnitDepth);
  panel_bytes_ = lines_ * line_units * kUnitCodes;
  panels_.resize(matrix_.Panels() * panel_bytes_);
  totals_.resize(matrix_.Panels() * kPanelColumns);
  std::vector<int8_t> units(matrix_.Units() * kUnitCodes);
  for (int64_t p = 0; p < matrix_.Panels(); ++p) {
    unpack_(matrix_, p, 0, matrix_.Units(), units.data());
    const int64_t columns = std::min<int64_t>(kPanelColumns, matrix_.n - p * kPanelColumns);
    for (int64_t k = 0; k < matrix_.k; ++k) {
      const int64_t unit = k / line * line_units + k % line / kUnitDepth;
      int8_t* to = panels_.data() + p * panel_bytes_ + unit * kUnitCodes + k % line % kUnitDepth;
      const int8_t* from = units.data() + k / kUnitDepth * kUnitCodes + k % kUnitDepth;
      for (int64_t c = 0; c < columns; ++c) {
        to[c * kUnitDepth] = from[c * kUnitDepth];
        totals_[p * kPanelColumns + c] += from[c * kUnitDepth];
      }
    }
  }
}

// K is a multiple of a unit here, so that nothing beyond it is summed.
void CodeProduct::SumColumns() {
  totals_.resize(matrix_.Panels() * kPanelColumns);
  std::vector<int8_t> units(matrix_.Units() * kUnitCodes);
  for (int64_t p = 0; p < matrix_.Panels(); ++p) {
    unpack_(matrix_, p, 0, matrix_.Units(), units.data());
    for (size_t i = 0; i < units.size(); ++i) {
      totals_[p * kPanelColumns + i % kUnitCodes / kUnitDepth] += units[i];
    }
  }
}

void CodeProduct::DecodeWeights(uint8_t* weights, const Parallel& parallel) const {
  if (weight_bytes_ == 0) return;
  const int64_t share = std::max<int64_t>(1, kDecodedAtOnce / panel_bytes_);
  parallel.For(static_cast<size_t>(CeilDiv(matrix_.Panels(), share)), [&](size_t task) {
    const int64_t first = static_cast<int64_t>(task) * share;
    const int64_t panels = std::min(share, matrix_.Panels() - first);
    DecodePanels(first, panels, reinterpret_cast<int8_t*>(weights) + first * panel_bytes_);
  });
}

void CodeProduct::DecodePanels(int64_t first, int64_t panels, int8_t* weights) const {
  for (int64_t p = 0; p < panels; ++p) {
    unpack_(matrix_, first + p, 0, matrix_.Units(), weights + p * panel_bytes_);
  }
}

const int8_t* CodeProduct::ChunkWeights(const Operands& o, int64_t first_panel,
                                        int64_t panels) const {
  if (weight_bytes_ > 0 && o.weights == nullptr) {
    DecodePanels(first_panel, panels, o.chunk);
    return o.chunk;
  }
  return o.weights + first_panel * panel_bytes_;
}

int64_t CodeProduct::ScratchBytes(int64_t rows, bool decodes) const {
  int64_t bytes = Align(rows * kChunkColumns * 4);
  if (decodes && weight_bytes_ > 0) bytes += kChunkPanels * panel_bytes_;
  if (gemm_shift_ != nullptr) {
    const ArrangedRows arranged = GemmShiftRows(matrix_, rows, is_unsigned_);
    bytes += Align(GemmShiftScratch(arranged)) + Align(arranged.Bytes());
  } else if (gemm_wide_ != nullptr) {
    bytes += Align(rows * RowBytes() * 2);
  } else if (sum_codes_ != nullptr) {
    bytes += Align(rows * (4 + matrix_.Groups() * 8));
  }
  return bytes;
}

CodeProduct::Operands CodeProduct::Prepare(const uint8_t* codes, int64_t rows,
                                           uint8_t* scratch) const {
  Operands o = {};
  o.a = {codes, RowBytes(), rows, is_unsigned_, nullptr, nullptr, matrix_.Groups()};
  o.sums = reinterpret_cast<int32_t*>(scratch);
  scratch += Align(rows * kChunkColumns * 4);
  if (gemm_shift_ != nullptr) {
    o.arranged = GemmShiftRows(matrix_, rows, is_unsigned_);
    o.shift_scratch = scratch;
    o.arranged.blocks = scratch + Align(GemmShiftScratch(o.arranged));
    arrange_(o.a, 0, o.arranged);
  } else if (gemm_windows_ != nullptr) {
    o.windows = {codes, rows, 1, RowBytes(), 0, &kRowStart, 1, RowBytes(), 0, 0};
  } else if (gemm_wide_ != nullptr) {
    int16_t* wide = reinterpret_cast<int16_t*>(scratch);
    Widen(codes, rows * RowBytes(), is_unsigned_, wide);
    o.windows = {wide, rows, 1, RowBytes(), 0, &kRowStart, 1, RowBytes(), 0, 0};
  } else if (sum_codes_ != nullptr) {
    int32_t* sums = reinterpret_cast<int32_t*>(scratch);
    int16_t* pair_sums = reinterpret_cast<int16_t*>(sums + rows);
    sum_codes_(o.a, sums, pair_sums);
    o.a.sums = sums;
    o.a.pair_sums = pair_sums;
  }
  return o;
}

void CodeProduct::Chunk(const Operands& o, const int8_t* weights, int64_t first_panel,
                        int64_t panels) const {
  if (gemm_shift_ != nullptr) {
    gemm_shift_(matrix_, first_panel, panels, o.arranged, o.shift_scratch, o.sums, kChunkColumns);
  } else if (gemm_windows_ != nullptr) {
    WindowsChunk(o, weights, first_panel, panels);
  } else if (gemm_wide_ != nullptr) {
    WideChunk(o, first_panel, panels);
  } else {
    gemm_(o.a, weights, panels, matrix_.Units(), o.sums, kChunkColumns);
  }
}

// Panel by panel: one stays in the first-level cache while all windows meet it.
void CodeProduct::WideChunk(const Operands& o, int64_t first_panel, int64_t panels) const {
  const CodeWindows& w = o.windows;
  const int16_t* codes = static_cast<const int16_t*>(w.codes);
  for (int64_t p = 0; p < panels; ++p) {
    const int16_t* weights = wide_panels_.data() + (first_panel + p) * TapPairValues(matrix_.k);
    for (int64_t row = 0; row < w.height; ++row) {
      int32_t* sums = o.sums + (w.first + row * w.pitch) * kChunkColumns + p * kPanelColumns;
      gemm_wide_({codes + row * w.row_step, w.step, w.width, w.offsets, w.lines, w.line_codes / 2,
                  weights, 1, sums, kChunkColumns});
    }
  }
}

void CodeProduct::WindowsChunk(const Operands& o, const int8_t* weights, int64_t first_panel,
                               int64_t panels) const {
  const CodeWindows& w = o.windows;
  const int64_t units = CeilDiv(w.line_codes, kUnitDepth);
  const int32_t* totals = totals_.data() + first_panel * kPanelColumns;
  const int64_t columns = std::min(panels * kPanelColumns, matrix_.n - first_panel * kPanelColumns);
  for (int64_t row = 0; row < w.height; ++row) {
    const uint8_t* codes = static_cast<const uint8_t*>(w.codes) + row * w.row_step;
    int32_t* sums = o.sums + (w.first + row * w.pitch) * kChunkColumns;
    gemm_windows_({codes, is_unsigned_, w.step, w.width, w.offsets, w.lines, units, weights, totals,
                   panels, columns, sums, kChunkColumns});
  }
}

}  // namespace edgefold
