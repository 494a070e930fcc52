// SPDX-License-Identifier: Apache-2.0
#include "ops/linear.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <utility>

#include "base/rounding.h"
#include "base/scratch.h"
#include "ops/operand_rows.h"

namespace edgefold {
namespace {

constexpr int64_t kRowsToPrepare = 16;  // of one task; a tile holds a whole number of them

}  // namespace

struct Linear::Call {
  const LinearInputs& inputs;
  const OperandRows& operands;
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
      gemm_float_(GemmFloatKernels().Choose().run),
      activate_(ActivationKernels().Choose().run) {
  if (!range_.steps.empty()) range_.steps.resize(matrix_.Groups() * kGroupDepth, 1.0f);
}

bool Linear::Run(const LinearInputs& inputs, const Parallel& parallel) const {
  if (inputs.rows == 0) return true;
  return range_.is_float() ? RunFloat(inputs, parallel) : RunQuantized(inputs, parallel);
}

bool Linear::RunQuantized(const LinearInputs& inputs, const Parallel& parallel) const {
  const int64_t rows = inputs.rows;
  const int64_t tiles = CeilDiv(rows, kRowsPerTile);
  const int64_t tall = std::min(rows, kRowsPerTile);
  const int64_t tile_bytes = product_.ArrangedBytes(tall, range_.is_unsigned());
  const OperandRows operands(rows, matrix_.k, range_.is_unsigned());
  const Scratch arranged = AllocateScratch(tiles * tile_bytes);
  if (!operands.ok() || arranged == nullptr) return false;
  const Call call = {inputs, operands, arranged.get(), tile_bytes};
  parallel.For(CeilDiv(rows, kRowsToPrepare), [&](size_t index) {
    const int64_t first = static_cast<int64_t>(index) * kRowsToPrepare;
    Prepare(call, first, std::min(kRowsToPrepare, rows - first));
  });

  const int64_t panels = matrix_.Panels();
  const int64_t wide = product_.PanelsPerTask(tall);
  const int64_t across = CeilDiv(panels, wide);
  std::atomic<bool> enough_memory{true};
  parallel.For(across * tiles, [&](size_t index) {
    const int64_t panel = static_cast<int64_t>(index) % across * wide;
    const int64_t row = static_cast<int64_t>(index) / across * kRowsPerTile;
    float* y = inputs.y + row * matrix_.n + panel * kPanelColumns;
    const ProductOutput out = {inputs.bias, inputs.bias_is_scalar, y, matrix_.n};
    const int64_t count = std::min(wide, panels - panel);
    const RowTile tile = Tile(call, row);
    if (!product_.Run(tile, panel, count, out)) enough_memory = false;
    Finish(inputs, panel, count, row, tile.a.rows);
  });
  return enough_memory;
}

// Rows of one tile as the product reads them.
void Linear::Prepare(const Call& call, int64_t first, int64_t rows) const {
  if (range_.x_codes) {
    TakeOperands(call, first, rows);
  } else {
    Quantize(call, first, rows);
  }
  const int64_t within = first % kRowsPerTile;
  product_.Arrange(Tile(call, first - within), within, rows);
}

void Linear::Quantize(const Call& call, int64_t first, int64_t rows) const {
  QuantizeArguments q = {};
  q.x = static_cast<const float*>(call.inputs.x) + first * matrix_.k;
  q.x_stride = matrix_.k;
  q.rows = rows;
  q.columns = matrix_.k;
  q.steps = range_.steps.empty() ? nullptr : range_.steps.data();
  q.static_scale = call.inputs.x_scale;
  q.low = range_.low;
  q.high = range_.high;
  call.operands.Receive(first, &q);
  quantize_(q);
}

// Operands that x holds already: padded to whole groups, and summed.
void Linear::TakeOperands(const Call& call, int64_t first, int64_t rows) const {
  const OperandRows& operands = call.operands;
  const int64_t padding = matrix_.Groups() * kGroupDepth - matrix_.k;
  for (int64_t m = first; m < first + rows; ++m) {
    const uint8_t* x = static_cast<const uint8_t*>(call.inputs.x) + m * matrix_.k;
    std::memcpy(operands.Codes(m), x, static_cast<size_t>(matrix_.k));
    std::memset(operands.Codes(m) + matrix_.k, 0, static_cast<size_t>(padding));
    *operands.Scales(m) = call.inputs.x_scale;
  }
  if (range_.is_unsigned()) return;
  sum_codes_(operands.Rows(first, rows), operands.Sums(first), operands.PairSums(first));
}

// The tile of rows that begins at `first`.
RowTile Linear::Tile(const Call& call, int64_t first) const {
  const int64_t rows = std::min(kRowsPerTile, call.inputs.rows - first);
  return {call.operands.Rows(first, rows), call.operands.Scales(first),
          call.arranged + first / kRowsPerTile * call.tile_bytes};
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
  Finish(inputs, panel, 1, first_row, rows);
  return true;
}

// What follows the product of some panels, while its results are in the cache.
void Linear::Finish(const LinearInputs& inputs, int64_t panel, int64_t panels, int64_t first_row,
                    int64_t rows) const {
  const int64_t first = panel * kPanelColumns;
  const int64_t columns = std::min(panels * kPanelColumns, matrix_.n - first);
  float* y = inputs.y + first_row * matrix_.n + first;
  if (inputs.activation != nullptr) {
    activate_({*inputs.activation, y, matrix_.n, rows, columns, y, matrix_.n});
  }
  if (inputs.residual == nullptr) return;
  const float* residual = inputs.residual + (y - inputs.y);
  for (int64_t m = 0; m < rows; ++m) {
    for (int64_t c = 0; c < columns; ++c) y[m * matrix_.n + c] += residual[m * matrix_.n + c];
  }
}

}  // namespace edgefold
