// SPDX-License-Identifier: Apache-2.0
#include "ops/conv.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "ops/choose_product.h"
#include "ops/conv_call.h"

namespace edgefold {
namespace {

constexpr int64_t kPixelsPerFill = 512;  // input pixels of one task
constexpr int64_t kChannelsPerFill = 16;

template <typename Element>
void MakeChannelLast(const Element* x, int64_t channel_stride, int64_t channels, int64_t pixels,
                     Element* out, int64_t pixel_stride) {
  for (int64_t i = 0; i < pixels; ++i) {
    for (int64_t c = 0; c < channels; ++c) out[i * pixel_stride + c] = x[c * channel_stride + i];
  }
}

}  // namespace

Conv::Conv(const PackedMatrix& matrix, const float* scales, const ConvAttributes& attributes,
           ActivationRange range)
    : matrix_(matrix),
      scales_(scales),
      attributes_(attributes),
      range_(std::move(range)),
      direct_(attributes.group > 1 && attributes.GroupOutputs() % kPanelColumns != 0),
      unpack_(UnpackKernels().Choose().run),
      gemm_(GemmKernels().Choose().run),
      arrange_(ArrangeKernels().Choose().run),
      gemm_shift_(ChooseGemmShift(matrix)),
      gemv_(GemvKernels().Choose().run),
      gemm_float_(GemmFloatKernels().Choose().run),
      quantize_(ConvQuantizeKernels().Choose().run),
      depthwise_(ConvDepthwiseKernels().Choose().run),
      epilogue_(ConvEpilogueKernels().Choose().run),
      sum_codes_(ConvSumsKernels().Choose().run),
      gemm_reads_sums_(ChooseSums() != nullptr) {}

bool Conv::Run(const ConvInputs& inputs, const Parallel& parallel) const {
  if (inputs.batch == 0) return true;
  const int64_t element = is_float() ? 4 : 1;
  // Pointwise rows are read in place, so a pixel is padded to what kernels may read.
  const int64_t unit = direct_ ? kPanelColumns
                       : attributes_.Pointwise() && attributes_.group == 1 && !is_float()
                           ? kGroupDepth
                           : 1;
  const int64_t pixel_bytes = CeilDiv(attributes_.in_channels, unit) * unit * element;
  const int64_t image_bytes = inputs.shape.PaddedPixels() * pixel_bytes + kImageSlack;
  const bool few = !direct_ && !is_float() && inputs.shape.OutPixels() <= kGemvRows;
  const bool decode = !direct_ && !few && (is_float() || gemm_shift_ == nullptr);
  const int64_t panel_bytes = matrix_.Units() * kUnitCodes;
  const int64_t decoded = decode ? matrix_.Panels() * panel_bytes : 0;
  const int64_t taps = attributes_.Taps();
  const Scratch memory = AllocateScratch(decoded + taps * 8 + image_bytes);
  if (memory == nullptr) return false;

  Call call = {inputs, parallel, element, pixel_bytes, image_bytes, few, nullptr, nullptr, nullptr};
  call.panels = reinterpret_cast<int8_t*>(memory.get());
  call.offsets = reinterpret_cast<int64_t*>(memory.get() + decoded);
  call.image = reinterpret_cast<uint8_t*>(call.offsets + taps);
  TapOffsets(attributes_, inputs.shape, pixel_bytes, call.offsets);
  if (decode) {
    parallel.For(matrix_.Panels(), [&](size_t p) {
      const int64_t panel = static_cast<int64_t>(p);
      unpack_(matrix_, panel, 0, matrix_.Units(), call.panels + panel * panel_bytes);
    });
  }
  PrepareImage(call);
  for (int64_t b = 0; b < inputs.batch; ++b) {
    FillImage(call, b);
    if (!(direct_ ? RunDirect(call, b) : RunGemm(call, b))) return false;
  }
  return true;
}

// What no image of the batch writes stays zero: padding, channels up to pixel_bytes, the slack.
void Conv::PrepareImage(const Call& call) const {
  const bool holes =
      attributes_.Padded() || call.pixel_bytes > attributes_.in_channels * call.element;
  const int64_t first = holes ? 0 : call.image_bytes - kImageSlack;
  std::memset(call.image + first, 0, static_cast<size_t>(call.image_bytes - first));
}

// Channels first ... of a row of pixels, to their place in `out`.
void Conv::FillRow(const Call& call, const uint8_t* x, int64_t pixels, int64_t first,
                   int64_t channels, uint8_t* out) const {
  const int64_t channel_stride = call.inputs.shape.InPixels();
  if (range_.x_codes) {
    return MakeChannelLast(x + first * channel_stride, channel_stride, channels, pixels,
                           out + first, call.pixel_bytes);
  }
  const float* values = reinterpret_cast<const float*>(x) + first * channel_stride;
  if (is_float()) {
    return MakeChannelLast(values, channel_stride, channels, pixels,
                           reinterpret_cast<float*>(out) + first, call.pixel_bytes / call.element);
  }
  const float* steps = range_.steps.empty() ? nullptr : range_.steps.data() + first;
  quantize_({values, channel_stride, channels, pixels, steps, call.inputs.x_scale, range_.low,
             range_.high, out + first, call.pixel_bytes});
}

// Image `image` of the batch, channel-last, into the middle of the padded one.
void Conv::FillImage(const Call& call, int64_t image) const {
  const ConvShape& s = call.inputs.shape;
  const bool padded = attributes_.Padded();
  const int64_t channels = attributes_.in_channels;
  const int64_t element = range_.x_codes ? 1 : 4;
  const uint8_t* x =
      static_cast<const uint8_t*>(call.inputs.x) + image * channels * s.InPixels() * element;
  // Without padding an image is one long row.
  const int64_t width = padded ? s.in[2] : s.InPixels();
  const int64_t rows = s.InPixels() / width;
  const int64_t across = CeilDiv(width, kPixelsPerFill);
  const int64_t down = std::max<int64_t>(1, kPixelsPerFill / width);
  call.parallel.For(across * CeilDiv(rows, down), [&](size_t index) {
    const int64_t column = static_cast<int64_t>(index) % across * kPixelsPerFill;
    const int64_t first = static_cast<int64_t>(index) / across * down;
    const int64_t last = std::min(rows, first + down);
    // Few channels at a time: as many streams as the caches follow.
    for (int64_t c = 0; c < channels; c += kChannelsPerFill) {
      for (int64_t row = first; row < last; ++row) {
        const int64_t plane = row / s.in[1] + attributes_.pads_begin[0];
        const int64_t line = plane * s.padded[1] + row % s.in[1] + attributes_.pads_begin[1];
        const int64_t pixel = padded ? line * s.padded[2] + attributes_.pads_begin[2] : 0;
        FillRow(call, x + (row * width + column) * element,
                std::min(kPixelsPerFill, width - column), c,
                std::min(kChannelsPerFill, channels - c),
                call.image + (pixel + column) * call.pixel_bytes);
      }
    }
  });
}

void Conv::Finish(const Call& call, int64_t image, int64_t column, int64_t columns,
                  int64_t first_pixel, int64_t pixels, const int32_t* acc,
                  int64_t acc_stride) const {
  const int64_t plane = call.inputs.shape.OutPixels();
  ConvEpilogueArguments e = {};
  e.acc = acc;
  e.acc_stride = acc_stride;
  e.pixels = pixels;
  e.channels = columns;
  e.x_scale = call.inputs.x_scale;
  e.scales = scales_ + column;
  e.bias = call.inputs.bias + (call.inputs.bias_is_scalar ? 0 : column);
  e.bias_is_scalar = call.inputs.bias_is_scalar;
  e.y = call.inputs.y + (image * attributes_.out_channels + column) * plane + first_pixel;
  e.channel_stride = plane;
  epilogue_(e);
}

void Conv::FinishFloats(const Call& call, int64_t image, int64_t column, int64_t columns,
                        int64_t first_pixel, int64_t pixels, const float* product) const {
  const int64_t plane = call.inputs.shape.OutPixels();
  for (int64_t n = column; n < column + columns; ++n) {
    const float bias = call.inputs.bias[call.inputs.bias_is_scalar ? 0 : n];
    float* y = call.inputs.y + (image * attributes_.out_channels + n) * plane + first_pixel;
    for (int64_t i = 0; i < pixels; ++i) {
      y[i] = product[i * kPanelColumns + n - column] * scales_[n] + bias;
    }
  }
}

}  // namespace edgefold
