// SPDX-License-Identifier: Apache-2.0
#include "ops/linear.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <utility>

#include "base/check.h"
#include "base/scratch.h"

namespace edgefold {
namespace {

constexpr int64_t kRowsPerQuantize = 16;  // rows of one quantization task

int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

}  // namespace

struct Linear::Call {
  const LinearInputs& inputs;
  Activations a;
  uint8_t* codes;
  float* row_scales;
  int32_t* sums;
  int16_t* pair_sums;
  uint8_t* arranged;  // of one tile of rows after the other
  int64_t tile_bytes;
};

Linear::Linear(const PackedMatrix& matrix, const float* scales, ActivationRange range)
    : matrix_(matrix),
      scales_(scales),
      range_(std::move(range)),
      product_(matrix, scales),
      unpack_(UnpackKernels().Choose().run),
      quantize_(QuantizeKernels().Choose().run),
      sum_codes_(ConvSumsKernels().Choose().run),
      gemm_float_(GemmFloatKernels().Choose().run) {
  if (!range_.steps.empty()) range_.steps.resize(matrix_.Groups() * kGroupDepth, 1.0f);
}

bool Linear::Run(const LinearInputs& inputs, const Parallel& parallel) const {
  if (inputs.rows == 0) return true;
  return range_.is_float() ? RunFloat(inputs, parallel) : RunQuantized(inputs, parallel);
}

bool Linear::RunQuantized(const LinearInputs& inputs, const Parallel& parallel) const {
  const int64_t rows = inputs.rows;
  const int64_t groups = matrix_.Groups();
  const int64_t stride = groups * kGroupDepth;
  const int64_t tiles = CeilDiv(rows, kRowsPerTile);
  const int64_t tall = std::min(rows, kRowsPerTile);
  const int64_t tile_bytes = product_.ArrangedBytes(tall, range_.is_unsigned());
  const Scratch memory = AllocateScratch(rows * (stride + 4 + 4 + groups * 8));
  const Scratch arranged = AllocateScratch(tiles * tile_bytes);
  if (memory == nullptr || arranged == nullptr) return false;
  Call call = {inputs, {}, memory.get(), nullptr, nullptr, nullptr, arranged.get(), tile_bytes};
  call.row_scales = reinterpret_cast<float*>(call.codes + rows * stride);
  call.sums = reinterpret_cast<int32_t*>(call.row_scales + rows);
  call.pair_sums = range_.is_unsigned() ? nullptr : reinterpret_cast<int16_t*>(call.sums + rows);
  call.a = {call.codes, stride, rows, range_.is_unsigned(), call.sums, call.pair_sums, groups};
  if (range_.x_codes) {
    TakeOperands(call, parallel);
  } else {
    Quantize(call, parallel);
  }

  if (tile_bytes > 0) Arrange(call, parallel);
  const int64_t panels = matrix_.Panels();
  const int64_t wide = product_.PanelsPerTask(tall);
  const int64_t across = CeilDiv(panels, wide);
  std::atomic<bool> enough_memory{true};
  parallel.For(across * tiles, [&](size_t index) {
    const int64_t panel = static_cast<int64_t>(index) % across * wide;
    const int64_t row = static_cast<int64_t>(index) / across * kRowsPerTile;
    const ProductOutput out = {inputs.bias, inputs.bias_is_scalar, inputs.y + row * matrix_.n,
                               matrix_.n};
    if (!product_.Run(Tile(call, row), panel, std::min(wide, panels - panel), out)) {
      enough_memory = false;
    }
  });
  return enough_memory;
}

void Linear::Quantize(const Call& call, const Parallel& parallel) const {
  const int64_t rows = call.a.rows;
  parallel.For(CeilDiv(rows, kRowsPerQuantize), [&](size_t index) {
    const int64_t first = static_cast<int64_t>(index) * kRowsPerQuantize;
    QuantizeArguments q = {};
    q.x = static_cast<const float*>(call.inputs.x) + first * matrix_.k;
    q.rows = std::min(kRowsPerQuantize, rows - first);
    q.columns = matrix_.k;
    q.steps = range_.steps.empty() ? nullptr : range_.steps.data();
    q.static_scale = call.inputs.x_scale;
    q.low = range_.low;
    q.high = range_.high;
    q.codes = call.codes + first * call.a.stride;
    q.stride = call.a.stride;
    q.row_scales = call.row_scales + first;
    q.sums = call.sums + first;
    q.pair_sums = call.pair_sums == nullptr ? nullptr : call.pair_sums + first * call.a.groups * 4;
    quantize_(q);
  });
}

// Operands that x holds already: padded to whole groups, and summed.
void Linear::TakeOperands(const Call& call, const Parallel& parallel) const {
  const int64_t rows = call.a.rows;
  parallel.For(CeilDiv(rows, kRowsPerQuantize), [&](size_t index) {
    const int64_t first = static_cast<int64_t>(index) * kRowsPerQuantize;
    const int64_t last = std::min(rows, first + kRowsPerQuantize);
    for (int64_t m = first; m < last; ++m) {
      const uint8_t* x = static_cast<const uint8_t*>(call.inputs.x) + m * matrix_.k;
      uint8_t* codes = call.codes + m * call.a.stride;
      std::memcpy(codes, x, static_cast<size_t>(matrix_.k));
      std::memset(codes + matrix_.k, 0, static_cast<size_t>(call.a.stride - matrix_.k));
      call.row_scales[m] = call.inputs.x_scale;
    }
    if (range_.is_unsigned()) return;
    Activations some = call.a;
    some.codes = call.codes + first * some.stride;
    some.rows = last - first;
    sum_codes_(some, call.sums + first, call.pair_sums + first * some.groups * 4);
  });
}

// The tile of rows that begins at first_row.
RowTile Linear::Tile(const Call& call, int64_t first_row) const {
  Activations a = call.a;
  a.codes += first_row * a.stride;
  a.rows = std::min(kRowsPerTile, a.rows - first_row);
  a.sums += first_row;
  if (a.pair_sums != nullptr) a.pair_sums += first_row * a.groups * 4;
  uint8_t* arranged = call.arranged + first_row / kRowsPerTile * call.tile_bytes;
  return {a, call.row_scales + first_row, arranged};
}

void Linear::Arrange(const Call& call, const Parallel& parallel) const {
  parallel.For(CeilDiv(call.a.rows, kRowsPerTile), [&](size_t index) {
    product_.Arrange(Tile(call, static_cast<int64_t>(index) * kRowsPerTile));
  });
}

bool Linear::RunFloat(const LinearInputs& inputs, const Parallel& parallel) const {
  const int64_t panels = matrix_.Panels();
  std::atomic<bool> enough_memory{true};
  parallel.For(panels * CeilDiv(inputs.rows, kRowsPerTile), [&](size_t index) {
    const int64_t panel = static_cast<int64_t>(index) % panels;
    const int64_t row = static_cast<int64_t>(index) / panels * kRowsPerTile;
    if (!FloatTile(inputs, panel, row, std::min(kRowsPerTile, inputs.rows - row))) {
      enough_memory = false;
    }
  });
  return enough_memory;
}

bool Linear::FloatTile(const LinearInputs& inputs, int64_t panel, int64_t first_row,
                       int64_t rows) const {
  const int64_t units = matrix_.Units();
  const Scratch memory = AllocateScratch(units * kUnitCodes + rows * kPanelColumns * 4);
  if (memory == nullptr) return false;
  int8_t* weights = reinterpret_cast<int8_t*>(memory.get());
  float* product = reinterpret_cast<float*>(memory.get() + units * kUnitCodes);
  unpack_(matrix_, panel, 0, units, weights);
  const float* x = static_cast<const float*>(inputs.x) + first_row * matrix_.k;
  gemm_float_(x, matrix_.k, rows, matrix_.k, weights, product, kPanelColumns);

  const int64_t first = panel * kPanelColumns;
  const int64_t columns = std::min<int64_t>(kPanelColumns, matrix_.n - first);
  for (int64_t m = 0; m < rows; ++m) {
    float* y = inputs.y + (first_row + m) * matrix_.n + first;
    for (int64_t c = 0; c < columns; ++c) {
      const float bias = inputs.bias[inputs.bias_is_scalar ? 0 : first + c];
      y[c] = product[m * kPanelColumns + c] * scales_[first + c] + bias;
    }
  }
  return true;
}

}  // namespace edgefold
