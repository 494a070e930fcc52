// SPDX-License-Identifier: Apache-2.0
// Convolution as a matrix product: blocks of windows times panels of a group.
#include <algorithm>
#include <atomic>

#include "ops/conv_call.h"
#include "ops/im2col.h"

namespace edgefold {
namespace {

constexpr int64_t kPanelsPerChunk = 4;      // sums of a chunk stay in L1 until they are finished
constexpr int64_t kBlockBytes = 96 * 1024;  // windows of a block, well within L2
constexpr int64_t kTasksWanted = 8;         // enough for the cores of a small machine

// Windows of a block: a multiple of 16 unless there are fewer.
int64_t RowsPerBlock(int64_t row_bytes, int64_t pixels) {
  const int64_t fitting = std::min<int64_t>(kBlockBytes / row_bytes, 256) / 16 * 16;
  return std::min(pixels, std::max<int64_t>(fitting, 16));
}

}  // namespace

struct Conv::GemmTask {
  int64_t image;
  int64_t group;
  int64_t first_panel;
  int64_t panels;
  int64_t first_pixel;
  int64_t pixels;
};

bool Conv::RunGemm(const Call& call, int64_t image) const {
  const int64_t pixels = call.inputs.shape.OutPixels();
  const int64_t row_bytes = matrix_.Groups() * kGroupDepth * call.element;
  const int64_t block = RowsPerBlock(row_bytes, pixels);
  const int64_t blocks = CeilDiv(pixels, block);
  const int64_t groups = attributes_.group;
  const int64_t panels = matrix_.Panels() / groups;  // of a group
  const int64_t chunks = CeilDiv(panels, kPanelsPerChunk);
  const int64_t splits = std::min(chunks, CeilDiv(kTasksWanted, blocks * groups));
  const int64_t share = CeilDiv(chunks, splits) * kPanelsPerChunk;
  std::atomic<bool> enough_memory{true};
  call.parallel.For(blocks * groups * splits, [&](size_t index) {
    const int64_t i = static_cast<int64_t>(index);
    const int64_t first = i % splits * share;
    if (first >= panels) return;
    GemmTask task = {};
    task.image = image;
    task.group = i / splits % groups;
    task.first_panel = task.group * panels + first;
    task.panels = std::min(share, panels - first);
    task.first_pixel = i / splits / groups * block;
    task.pixels = std::min(block, pixels - task.first_pixel);
    if (!GemmBlock(call, task)) enough_memory = false;
  });
  return enough_memory;
}

bool Conv::GemmBlock(const Call& call, const GemmTask& task) const {
  const int64_t row_bytes = matrix_.Groups() * kGroupDepth * call.element;
  const bool in_place = attributes_.Pointwise() && attributes_.group == 1 && !is_float();
  const int64_t built = in_place ? 0 : CeilDiv(task.pixels * row_bytes + kCopySlack, 64) * 64;
  const int64_t sums = task.pixels * (4 + matrix_.Groups() * 8);
  const int64_t acc = task.pixels * kPanelsPerChunk * kPanelColumns * 4;
  const int64_t shift = ShiftBytes(call, task.pixels);
  const Scratch memory = AllocateScratch(built + shift + acc + sums);
  if (memory == nullptr) return false;

  const int64_t inputs = attributes_.GroupInputs() * call.element;
  const uint8_t* image = call.image + task.group * inputs;
  const uint8_t* rows = image + task.first_pixel * call.pixel_bytes;
  if (!in_place) {
    // Kernel positions of a line lie side by side where all channels belong to the group.
    const bool whole_lines = inputs == call.pixel_bytes && attributes_.dilations[2] == 1;
    const int64_t line = whole_lines ? attributes_.kernel[2] : 1;
    WindowRuns window = {call.offsets, attributes_.Taps(), inputs};
    const Scratch starts = AllocateScratch(window.runs * 8);
    if (starts == nullptr) return false;
    int64_t* offsets = reinterpret_cast<int64_t*>(starts.get());
    for (int64_t r = 0; r < window.runs / line; ++r) offsets[r] = call.offsets[r * line];
    window = {offsets, window.runs / line, inputs * line};
    BuildRows(attributes_, call.inputs.shape, window, image, call.pixel_bytes, task.first_pixel,
              task.pixels, row_bytes, memory.get());
    rows = memory.get();
  }
  if (is_float()) {
    GemmFloats(call, task, rows, reinterpret_cast<float*>(memory.get() + built));
  } else {
    GemmIntegers(call, task, rows, memory.get() + built);
  }
  return true;
}

// What gemm_shift needs for this many windows: its scratch, then their codes.
int64_t Conv::ShiftBytes(const Call& call, int64_t pixels) const {
  if (call.few || gemm_shift_ == nullptr) return 0;
  const ArrangedRows rows = GemmShiftRows(matrix_, pixels, range_.is_unsigned());
  return GemmShiftScratch(rows) + rows.Bytes();
}

void Conv::GemmIntegers(const Call& call, const GemmTask& task, const uint8_t* rows,
                        uint8_t* memory) const {
  const int64_t groups = matrix_.Groups();
  const int64_t units = matrix_.Units();
  const int64_t shift = ShiftBytes(call, task.pixels);
  int32_t* acc = reinterpret_cast<int32_t*>(memory + shift);
  int32_t* sums = acc + task.pixels * kPanelsPerChunk * kPanelColumns;
  int16_t* pair_sums = reinterpret_cast<int16_t*>(sums + task.pixels);
  Activations a = {rows,  groups * kGroupDepth, task.pixels, range_.is_unsigned(), sums, pair_sums,
                   groups};
  if (!a.is_unsigned && (call.few || gemm_reads_sums_)) {
    sum_codes_(a, sums, pair_sums);
  } else {
    a.sums = nullptr;
    a.pair_sums = nullptr;
  }
  ArrangedRows arranged = GemmShiftRows(matrix_, task.pixels, range_.is_unsigned());
  if (shift > 0) {
    arranged.blocks = memory + GemmShiftScratch(arranged);
    arrange_(a, 0, arranged);
  }
  for (int64_t p = 0; p < task.panels; p += kPanelsPerChunk) {
    const int64_t panel = task.first_panel + p;
    const int64_t count = std::min(kPanelsPerChunk, task.panels - p);
    const int64_t width = count * kPanelColumns;
    if (call.few) {
      gemv_(matrix_, panel, count, a, acc, width);
    } else if (gemm_shift_ == nullptr) {
      gemm_(a, call.panels + panel * units * kUnitCodes, count, units, acc, width);
    } else {
      gemm_shift_(matrix_, panel, count, arranged, memory, acc, width);
    }
    const int64_t column = panel * kPanelColumns;
    Finish(call, task.image, column, std::min(width, matrix_.n - column), task.first_pixel,
           task.pixels, acc, width);
  }
}

void Conv::GemmFloats(const Call& call, const GemmTask& task, const uint8_t* rows,
                      float* product) const {
  const int64_t units = matrix_.Units();
  const int64_t stride = matrix_.Groups() * kGroupDepth;
  for (int64_t panel = task.first_panel; panel < task.first_panel + task.panels; ++panel) {
    gemm_float_(reinterpret_cast<const float*>(rows), stride, task.pixels, matrix_.k,
                call.panels + panel * units * kUnitCodes, product, kPanelColumns);
    const int64_t column = panel * kPanelColumns;
    FinishFloats(call, task.image, column, std::min<int64_t>(kPanelColumns, matrix_.n - column),
                 task.first_pixel, task.pixels, product);
  }
}

}  // namespace edgefold
