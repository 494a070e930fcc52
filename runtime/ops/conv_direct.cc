// SPDX-License-Identifier: Apache-2.0
// Convolution of a panel whose 16 output channels read different input channels: depthwise, and
// groups of fewer than 16 output channels. Input channel i of each column's group is gathered to
// lie beside that of its neighbours, so that every (kernel position, i) is one more tap.
#include <algorithm>
#include <atomic>
#include <cstring>

#include "ops/conv_call.h"
#include "ops/tap_pairs.h"

namespace edgefold {
namespace {

constexpr int64_t kPixelsPerTask = 256;

// acc[i][c] = sum over t of x[...] * weights[t][c]; the float form of conv_depthwise.
void DepthwiseFloats(const float* x, int64_t step, const int64_t* offsets, int64_t taps,
                     const float* weights, int64_t pixels, float* acc) {
  for (int64_t i = 0; i < pixels; ++i, x += step, acc += kPanelColumns) {
    float sums[kPanelColumns] = {};
    for (int64_t t = 0; t < taps; ++t) {
      const float* values = x + offsets[t];
      for (int c = 0; c < kPanelColumns; ++c) sums[c] += values[c] * weights[t * 16 + c];
    }
    std::memcpy(acc, sums, sizeof sums);
  }
}

void FloatTaps(const int8_t* units, int64_t k, float* taps) {
  for (int64_t t = 0; t < k; ++t) {
    for (int c = 0; c < kPanelColumns; ++c) taps[t * 16 + c] = units[t / 4 * 64 + c * 4 + t % 4];
  }
}

}  // namespace

struct Conv::DirectTask {
  int64_t image;
  int64_t panel;
  const uint8_t* x;        // channel-last, 16 channels of each pixel in use
  int64_t pixel_bytes;     // of x
  const int64_t* offsets;  // [K] in units of an activation
  const int8_t* units;     // the decoded panel
  uint8_t* weights;        // scratch of K + 1 taps
  int64_t first_row;       // output rows, counted over all planes
  int64_t rows;
  uint8_t* acc;  // scratch of rows * width * 16 sums
};

bool Conv::RunDirect(const Call& call, int64_t image) const {
  const ConvShape& s = call.inputs.shape;
  const int64_t rows = s.out[0] * s.out[1];
  // Gathering is done once a panel, so a panel is not cut.
  const int64_t block =
      attributes_.Depthwise() ? std::max<int64_t>(1, kPixelsPerTask / s.out[2]) : rows;
  const int64_t panels = matrix_.Panels();
  std::atomic<bool> enough_memory{true};
  call.parallel.For(panels * CeilDiv(rows, block), [&](size_t index) {
    const int64_t panel = static_cast<int64_t>(index) % panels;
    const int64_t first = static_cast<int64_t>(index) / panels * block;
    if (!DirectPanel(call, image, panel, first, std::min(block, rows - first))) {
      enough_memory = false;
    }
  });
  return enough_memory;
}

bool Conv::DirectPanel(const Call& call, int64_t image, int64_t panel, int64_t first_row,
                       int64_t rows) const {
  const ConvShape& s = call.inputs.shape;
  const bool gather = !attributes_.Depthwise();
  const int64_t per_group = attributes_.GroupInputs();
  const int64_t gathered_pixel = kPanelColumns * call.element;
  const int64_t plane_bytes = s.PaddedPixels() * gathered_pixel;
  const int64_t gathered = gather ? CeilDiv(per_group * plane_bytes, 64) * 64 : 0;
  const int64_t block = std::max<int64_t>(1, kPixelsPerTask / s.out[2]);
  const int64_t acc = block * s.out[2] * kPanelColumns * 4;
  const int64_t units = matrix_.Units() * kUnitCodes;
  const int64_t k = matrix_.k;
  const Scratch memory = AllocateScratch(gathered + acc + units + (k + 1) * 64 + k * 8);
  if (memory == nullptr) return false;

  DirectTask task = {};
  task.image = image;
  task.panel = panel;
  task.acc = memory.get() + gathered;
  task.weights = task.acc + acc;
  int64_t* offsets = reinterpret_cast<int64_t*>(task.weights + (k + 1) * 64);
  int8_t* decoded = reinterpret_cast<int8_t*>(offsets + k);
  unpack_(matrix_, panel, 0, matrix_.Units(), decoded);
  task.units = decoded;
  task.offsets = offsets;
  task.pixel_bytes = gather ? gathered_pixel : call.pixel_bytes;
  task.x = gather ? memory.get() : call.image + panel * kPanelColumns * call.element;
  for (int64_t t = 0; t < k; ++t) {
    const int64_t window = call.offsets[t / per_group] / call.pixel_bytes * task.pixel_bytes;
    offsets[t] = (window + t % per_group * plane_bytes) / call.element;
  }
  if (gather) GatherChannels(call, panel, memory.get());
  if (is_float()) {
    FloatTaps(decoded, k, reinterpret_cast<float*>(task.weights));
  } else {
    PairTaps(decoded, k, reinterpret_cast<int16_t*>(task.weights));
  }
  for (int64_t row = first_row; row < first_row + rows; row += block) {
    task.first_row = row;
    task.rows = std::min(block, first_row + rows - row);
    DirectRows(call, task);
  }
  return true;
}

// out[i][pixel][c] = input channel i of the group that column c of the panel belongs to.
void Conv::GatherChannels(const Call& call, int64_t panel, uint8_t* out) const {
  const int64_t pixels = call.inputs.shape.PaddedPixels();
  const int64_t per_group = attributes_.GroupInputs();
  int64_t first[kPanelColumns];  // byte of the group's first channel
  for (int64_t c = 0; c < kPanelColumns; ++c) {
    const int64_t channel = std::min(panel * kPanelColumns + c, matrix_.n - 1);
    first[c] = channel / attributes_.GroupOutputs() * per_group * call.element;
  }
  for (int64_t i = 0; i < per_group; ++i) {
    const uint8_t* pixel = call.image + i * call.element;
    for (int64_t p = 0; p < pixels; ++p, pixel += call.pixel_bytes) {
      for (int c = 0; c < kPanelColumns; ++c, out += call.element) {
        if (call.element == 1) {
          *out = pixel[first[c]];
        } else {
          std::memcpy(out, pixel + first[c], 4);
        }
      }
    }
  }
}

void Conv::DirectRows(const Call& call, const DirectTask& task) const {
  const ConvShape& s = call.inputs.shape;
  const int64_t width = s.out[2];
  for (int64_t r = 0; r < task.rows; ++r) {
    const int64_t pixel = (task.first_row + r) * width;
    const uint8_t* x = task.x + WindowStart(attributes_, s, pixel, task.pixel_bytes);
    uint8_t* acc = task.acc + r * width * kPanelColumns * 4;
    const int64_t step = attributes_.strides[2] * task.pixel_bytes / call.element;
    if (is_float()) {
      DepthwiseFloats(reinterpret_cast<const float*>(x), step, task.offsets, matrix_.k,
                      reinterpret_cast<const float*>(task.weights), width,
                      reinterpret_cast<float*>(acc));
    } else {
      depthwise_({x, range_.is_unsigned(), step, task.offsets, matrix_.k,
                  reinterpret_cast<const int16_t*>(task.weights), width,
                  reinterpret_cast<int32_t*>(acc), kPanelColumns, 1, 0});
    }
  }
  const int64_t column = task.panel * kPanelColumns;
  const int64_t columns = std::min<int64_t>(kPanelColumns, matrix_.n - column);
  const int64_t first = task.first_row * width;
  if (is_float()) {
    FinishFloats(call, task.image, column, columns, first, task.rows * width,
                 reinterpret_cast<const float*>(task.acc));
  } else {
    Finish(call, task.image, column, columns, first, task.rows * width,
           reinterpret_cast<const int32_t*>(task.acc), kPanelColumns);
  }
}

}  // namespace edgefold
