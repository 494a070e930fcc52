// SPDX-License-Identifier: Apache-2.0
#include "ops/moe.h"

#include <algorithm>
#include <atomic>
#include <limits>
#include <utility>

#include "base/rounding.h"
#include "base/scratch.h"
#include "ops/operand_rows.h"
#include "ops/routes.h"

namespace edgefold {
namespace {

constexpr int64_t kRowsPerTask = 16;   // of tasks that quantize or combine rows
constexpr int64_t kPanelsPerTask = 8;  // of one tile of rows times a matrix
constexpr int32_t kHigh = 127;         // of the codes of a row

// Calls task(first, count) for runs of rows.
template <typename Task>
void ForRows(const Parallel& parallel, int64_t rows, const Task& task) {
  parallel.For(CeilDiv(rows, kRowsPerTask), [&](size_t index) {
    const int64_t first = static_cast<int64_t>(index) * kRowsPerTask;
    task(first, std::min(kRowsPerTask, rows - first));
  });
}

// The quantized rows of every tile in the order in which a product of its expert reads them.
class TiledRows {
 public:
  TiledRows(const Routes& routes, const OperandRows& operands, const ExpertProducts& products)
      : routes_(routes), operands_(operands), products_(products) {
    offsets_ = AllocateScratch((routes.tiles() + 1) * 8);
    if (offsets_ == nullptr) return;
    int64_t* offset = Offsets();
    offset[0] = 0;
    for (int64_t i = 0; i < routes.tiles(); ++i) {
      offset[i + 1] = offset[i] + Product(i).ArrangedBytes(routes.tile(i).slots, false);
    }
    arranged_ = AllocateScratch(offset[routes.tiles()]);
  }

  bool ok() const { return arranged_ != nullptr; }

  const PanelProduct& Product(int64_t tile) const {
    return products_.experts[routes_.tile(tile).expert];
  }
  RowTile Rows(int64_t tile) const {
    const SlotTile& slots = routes_.tile(tile);
    return {operands_.Rows(slots.first, slots.slots), operands_.Scales(slots.first),
            arranged_.get() + Offsets()[tile]};
  }

  // To be called once the rows are there.
  void Arrange(const Parallel& parallel) const {
    if (Offsets()[routes_.tiles()] == 0) return;
    parallel.For(routes_.tiles(), [&](size_t tile) {
      const RowTile rows = Rows(tile);
      Product(tile).Arrange(rows, 0, rows.a.rows);
    });
  }

  // Some panels of a tile's product; `y` is where the first column of the first row goes.
  bool Run(int64_t tile, int64_t first_panel, int64_t panels, float* y, int64_t stride) const {
    const int64_t own = products_.bias_is_scalar ? 0 : routes_.tile(tile).expert;
    const float* bias = products_.bias + own * Product(tile).matrix().n;
    const ProductOutput out = {bias, products_.bias_is_scalar, y, stride};
    return Product(tile).Run(Rows(tile), first_panel, panels, out);
  }

 private:
  int64_t* Offsets() const { return reinterpret_cast<int64_t*>(offsets_.get()); }

  const Routes& routes_;
  const OperandRows& operands_;
  const ExpertProducts& products_;
  Scratch offsets_;  // [tiles + 1] int64 into arranged_
  Scratch arranged_;
};

void QuantizeRows(QuantizeKernel* quantize, const float* x, int64_t rows, int64_t columns,
                  const OperandRows& operands, int64_t first) {
  QuantizeArguments q = {};
  q.x = x;
  q.x_stride = columns;
  q.rows = rows;
  q.columns = columns;
  q.low = -kHigh;
  q.high = kHigh;
  operands.Receive(first, &q);
  quantize(q);
}

}  // namespace

struct MixtureOfExperts::Call {
  const MoeInputs& inputs;
  const Routes& routes;
  const Parallel& parallel;

  // Calls task(tile, first_panel, panels) for all tiles and runs of `panels` panels; false where
  // one of them was.
  template <typename Task>
  bool ForTiles(int64_t panels, const Task& task) const {
    const int64_t across = CeilDiv(panels, kPanelsPerTask);
    std::atomic<bool> right{true};
    parallel.For(routes.tiles() * across, [&](size_t index) {
      const int64_t tile = static_cast<int64_t>(index) / across;
      const int64_t panel = static_cast<int64_t>(index) % across * kPanelsPerTask;
      if (!task(tile, panel, std::min(kPanelsPerTask, panels - panel))) right = false;
    });
    return right;
  }
};

// Some columns of some rows of hidden values.
struct MixtureOfExperts::Block {
  float* values;
  int64_t stride;
  int64_t rows;
  int64_t columns;
};

MixtureOfExperts::MixtureOfExperts(ExpertProducts gate, ExpertProducts up, ExpertProducts down,
                                   const Gating& gating)
    : gate_(std::move(gate)),
      up_(std::move(up)),
      down_(std::move(down)),
      gating_(gating),
      quantize_(QuantizeKernels().Choose().run),
      activate_(ActivationKernels().Choose().run) {}

bool MixtureOfExperts::Run(const MoeInputs& inputs, const Parallel& parallel) const {
  const Routes routes(inputs.gates, inputs.tokens, experts(), kRowsPerTile);
  if (!routes.ok()) return false;
  const Call call = {inputs, routes, parallel};
  const int64_t slots = routes.slots();
  const OperandRows tokens(slots, k(), false);
  const OperandRows hidden_codes(slots, hidden(), false);
  const Scratch memory = AllocateScratch(slots * (hidden() + k()) * 4);
  if (!tokens.ok() || !hidden_codes.ok() || memory == nullptr) return false;
  float* values = reinterpret_cast<float*>(memory.get());  // [slots][hidden]
  float* results = values + slots * hidden();              // [slots][k]

  QuantizeTokens(call, tokens);
  if (!Hidden(call, tokens, values)) return false;
  ForRows(parallel, slots, [&](int64_t first, int64_t rows) {
    QuantizeRows(quantize_, values + first * hidden(), rows, hidden(), hidden_codes, first);
  });
  if (!Down(call, hidden_codes, results)) return false;
  Combine(call, results);
  return true;
}

// Every token's row once, and a copy for each further expert.
void MixtureOfExperts::QuantizeTokens(const Call& call, const OperandRows& tokens) const {
  ForRows(call.parallel, call.inputs.tokens, [&](int64_t first, int64_t count) {
    for (int64_t t = first; t < first + count; ++t) {
      const int64_t* slots = call.routes.SlotsOf(t);
      const int64_t uses = call.routes.CountOf(t);
      if (uses == 0) continue;
      QuantizeRows(quantize_, call.inputs.x + t * k(), 1, k(), tokens, slots[0]);
      for (int64_t i = 1; i < uses; ++i) tokens.CopyRow(slots[0], slots[i]);
    }
  });
}

bool MixtureOfExperts::Hidden(const Call& call, const OperandRows& tokens, float* values) const {
  const TiledRows gate(call.routes, tokens, gate_);
  const TiledRows up(call.routes, tokens, HasUp() ? up_ : gate_);
  if (!gate.ok() || !up.ok()) return false;
  gate.Arrange(call.parallel);
  if (HasUp()) up.Arrange(call.parallel);
  const int64_t panels = gate_.experts.front().matrix().Panels();
  return call.ForTiles(panels, [&](int64_t tile, int64_t panel, int64_t count) {
    const int64_t column = panel * kPanelColumns;
    const SlotTile& slots = call.routes.tile(tile);
    Block block = {values + slots.first * hidden() + column, hidden(), slots.slots,
                   std::min(count * kPanelColumns, hidden() - column)};
    if (!gate.Run(tile, panel, count, block.values, block.stride)) return false;
    const Scratch memory = AllocateScratch(HasUp() ? block.rows * block.columns * 4 : 0);
    if (memory == nullptr) return false;
    float* factors = HasUp() ? reinterpret_cast<float*>(memory.get()) : nullptr;
    if (HasUp() && !up.Run(tile, panel, count, factors, block.columns)) return false;
    Gate(block, factors);
    return true;
  });
}

// The activation of a block, times the factors [rows][columns] where there are any.
void MixtureOfExperts::Gate(const Block& block, const float* factors) const {
  const float limit = gating_.limit;
  const bool limited = limit < std::numeric_limits<float>::infinity();
  for (int64_t m = 0; limited && m < block.rows; ++m) {
    float* row = block.values + m * block.stride;
    for (int64_t n = 0; n < block.columns; ++n) row[n] = std::min(row[n], limit);
  }
  activate_({gating_.activation, block.values, block.stride, block.rows, block.columns,
             block.values, block.stride});
  for (int64_t m = 0; factors != nullptr && m < block.rows; ++m) {
    float* row = block.values + m * block.stride;
    const float* factor = factors + m * block.columns;
    for (int64_t n = 0; n < block.columns; ++n) {
      row[n] *= std::min(std::max(factor[n], -limit), limit) + gating_.up_offset;
    }
  }
}

bool MixtureOfExperts::Down(const Call& call, const OperandRows& hidden_codes,
                            float* results) const {
  const TiledRows down(call.routes, hidden_codes, down_);
  if (!down.ok()) return false;
  down.Arrange(call.parallel);
  const int64_t panels = down_.experts.front().matrix().Panels();
  return call.ForTiles(panels, [&](int64_t tile, int64_t panel, int64_t count) {
    float* y = results + call.routes.tile(tile).first * k() + panel * kPanelColumns;
    return down.Run(tile, panel, count, y, k());
  });
}

// One token's results are added in a fixed order, so that threads do not change a sum.
void MixtureOfExperts::Combine(const Call& call, const float* results) const {
  ForRows(call.parallel, call.inputs.tokens, [&](int64_t first, int64_t count) {
    for (int64_t t = first; t < first + count; ++t) {
      float* y = call.inputs.y + t * k();
      std::fill(y, y + k(), 0.0f);
      for (int64_t i = 0; i < call.routes.CountOf(t); ++i) {
        const float gate = call.routes.GatesOf(t)[i];
        const float* result = results + call.routes.SlotsOf(t)[i] * k();
        for (int64_t n = 0; n < k(); ++n) y[n] += result[n] * gate;
      }
    }
  });
}

}  // namespace edgefold
