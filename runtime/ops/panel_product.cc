// SPDX-License-Identifier: Apache-2.0
#include "ops/panel_product.h"

#include <algorithm>

#include "base/rounding.h"
#include "base/scratch.h"
#include "ops/choose_product.h"

namespace edgefold {
namespace {

constexpr int64_t kPanelsPerTile = 2;  // 32 columns: one register tile of AVX-512
constexpr int64_t kMostPanels = 8;     // of one task
constexpr int64_t kTasksWanted = 8;    // enough for the cores of a small machine
constexpr int64_t kGemvPanels = 8;     // panels of one gemv task
constexpr int64_t kPackedRows = 8;     // of the tile in which gemm_packed decodes
constexpr int64_t kFewSums = (kPackedRows - 1) * kGemvPanels * kPanelColumns;

}  // namespace

PanelProduct::PanelProduct(const PackedMatrix& matrix, const float* scales)
    : matrix_(matrix),
      scales_(scales),
      unpack_(UnpackKernels().Choose().run),
      gemm_(GemmKernels().Choose().run),
      arrange_(ArrangeKernels().Choose().run),
      gemm_packed_(ChooseGemmPacked()),
      gemm_shift_(ChooseGemmShift(matrix)),
      gemv_(GemvKernels().Choose().run),
      epilogue_(EpilogueKernels().Choose().run) {}

bool PanelProduct::Few(int64_t rows) const {
  return rows <= kGemvRows || gemm_packed_ != nullptr && rows < kPackedRows;
}

bool PanelProduct::Arranges(int64_t rows) const { return gemm_shift_ != nullptr && !Few(rows); }

int64_t PanelProduct::ArrangedBytes(int64_t rows, bool is_unsigned) const {
  return Arranges(rows) ? GemmShiftRows(matrix_, rows, is_unsigned).Bytes() : 0;
}

ArrangedRows PanelProduct::Arranged(const RowTile& tile) const {
  ArrangedRows rows = GemmShiftRows(matrix_, tile.a.rows, tile.a.is_unsigned);
  rows.blocks = tile.arranged;
  return rows;
}

void PanelProduct::Arrange(const RowTile& tile, int64_t first, int64_t rows) const {
  if (!Arranges(tile.a.rows)) return;
  Activations some = tile.a;
  some.codes = tile.a.Row(first);
  some.rows = rows;
  arrange_(some, first, Arranged(tile));
}

int64_t PanelProduct::PanelsPerTask(int64_t rows) const {
  if (Few(rows)) return kGemvPanels;
  if (gemm_packed_ == nullptr && gemm_shift_ == nullptr) return kPanelsPerTile;
  return RoundUp(std::clamp(matrix_.Panels() / kTasksWanted, kPanelsPerTile, kMostPanels),
                 gemm_packed_ == nullptr ? 1 : kPanelsPerTile);
}

bool PanelProduct::Run(const RowTile& tile, int64_t first_panel, int64_t panels,
                       const ProductOutput& out) const {
  const int64_t rows = tile.a.rows;
  const int64_t width = panels * kPanelColumns;
  if (Few(rows) && rows * width <= kFewSums) {
    alignas(64) int32_t acc[kFewSums];  // a task so short would spend much of its time on malloc
    gemv_(matrix_, first_panel, panels, tile.a, acc, width);
    Finish(tile, acc, first_panel, panels, out);
    return true;
  }
  if (gemm_packed_ != nullptr) return RunPacked(tile, first_panel, panels, out);
  const int64_t units = matrix_.Units();
  const int64_t panel_bytes = units * kUnitCodes;
  const int64_t decoded = Arranges(rows) ? GemmShiftScratch(Arranged(tile)) : panels * panel_bytes;
  const Scratch memory = AllocateScratch(decoded + rows * width * 4);
  if (memory == nullptr) return false;
  int32_t* acc = reinterpret_cast<int32_t*>(memory.get() + decoded);
  if (Arranges(rows)) {
    gemm_shift_(matrix_, first_panel, panels, Arranged(tile), memory.get(), acc, width);
  } else {
    int8_t* weights = reinterpret_cast<int8_t*>(memory.get());
    for (int64_t p = 0; p < panels; ++p) {
      unpack_(matrix_, first_panel + p, 0, units, weights + p * panel_bytes);
    }
    gemm_(tile.a, weights, panels, units, acc, width);
  }
  Finish(tile, acc, first_panel, panels, out);
  return true;
}

void PanelProduct::Finish(const RowTile& tile, const int32_t* acc, int64_t first_panel,
                          int64_t panels, const ProductOutput& out) const {
  const int64_t column = first_panel * kPanelColumns;
  const int64_t width = panels * kPanelColumns;
  EpilogueArguments e = {};
  e.acc = acc;
  e.acc_stride = width;
  e.rows = tile.a.rows;
  e.columns = std::min(width, matrix_.n - column);
  e.row_scales = tile.row_scales;
  e.scales = scales_ + column;
  e.bias = out.bias + (out.bias_is_scalar ? 0 : column);
  e.bias_is_scalar = out.bias_is_scalar;
  e.y = out.y;
  e.y_stride = out.stride;
  epilogue_(e);
}

bool PanelProduct::RunPacked(const RowTile& tile, int64_t first_panel, int64_t panels,
                             const ProductOutput& out) const {
  const Scratch decoded = AllocateScratch(GemmPackedScratch(matrix_));
  if (decoded == nullptr) return false;
  const int64_t column = first_panel * kPanelColumns;
  GemmPackedArguments g = {};
  g.matrix = &matrix_;
  g.first_panel = first_panel;
  g.columns = std::min(panels * kPanelColumns, matrix_.n - column);
  g.a = tile.a;
  g.decoded = decoded.get();
  g.row_scales = tile.row_scales;
  g.scales = scales_ + column;
  g.bias = out.bias + (out.bias_is_scalar ? 0 : column);
  g.bias_is_scalar = out.bias_is_scalar;
  g.y = out.y;
  g.y_stride = out.stride;
  gemm_packed_(g);
  return true;
}

}  // namespace edgefold
