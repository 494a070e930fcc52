// SPDX-License-Identifier: Apache-2.0
#include "ops/test/stage_cases.h"

#include <deque>

#ifdef __SANITIZE_THREAD__
#include <thread>
#endif

namespace edgefold::selftest {
namespace {

int64_t K(const ConvAttributes& a) { return a.Taps() * a.GroupInputs(); }

// The exact sum of output channel n at an output pixel.
int32_t Sum(const ConvStage& stage, const ConvShape& s, const uint8_t* x, int64_t row,
            int64_t column, int64_t n) {
  const ConvAttributes& a = stage.attributes;
  const int64_t first = n / a.GroupOutputs() * a.GroupInputs();
  int32_t sum = 0;
  for (int64_t k = 0; k < K(a); ++k) {
    const int64_t tap = k / a.GroupInputs();
    const int64_t r = row * a.strides[1] + tap / a.kernel[2] * a.dilations[1] - a.pads_begin[1];
    const int64_t c = column * a.strides[2] + tap % a.kernel[2] * a.dilations[2] - a.pads_begin[2];
    if (r < 0 || r >= s.in[1] || c < 0 || c >= s.in[2]) continue;
    const uint8_t code = x[(r * s.in[2] + c) * a.in_channels + first + k % a.GroupInputs()];
    const int32_t integer = stage.x.is_unsigned() ? code : static_cast<int8_t>(code);
    sum += integer * WeightAt(stage.matrix, k, n);
  }
  return sum;
}

}  // namespace

ConvAttributes Square(int64_t in_channels, int64_t out_channels, int64_t kernel, int64_t stride,
                      int64_t pad, int64_t group, int64_t dilation) {
  return {{1, kernel, kernel},
          {1, stride, stride},
          {0, pad, pad},
          {0, pad, pad},
          {1, dilation, dilation},
          group,
          in_channels,
          out_channels};
}

StageCase::StageCase(Random& random, const ConvAttributes& attributes, bool shift, CodeRange x,
                     CodeRange y, Activation activation, Residual residual)
    : matrix(random, shift ? 4 : 8, K(attributes), attributes.out_channels,
             shift ? Tables::kShift : Tables::kSingle) {
  const int64_t n = attributes.out_channels;
  scales.resize(n);
  bias.resize(random.Next() % 4 == 0 ? 1 : n);
  // Results spread over the codes and a little beyond.
  for (float& scale : scales) scale = (0.5f + 0.4f * random.Uniform()) * 0.02f;
  for (float& value : bias) value = random.Uniform();
  stage.matrix = matrix.matrix;
  stage.scales = scales.data();
  stage.attributes = attributes;
  stage.x = {x.low, x.high, true, {}};
  stage.activation = activation;
  stage.residual = residual;
  stage.residual_is_unsigned = x.is_unsigned();
  stage.y = y;
  inputs.bias = bias.data();
  inputs.bias_is_scalar = bias.size() == 1 && n != 1;
  inputs.y_scale = 0.031f;
}

std::vector<uint8_t> RandomCodes(Random& random, CodeRange range, int64_t size) {
  std::vector<uint8_t> codes(size);
  for (uint8_t& code : codes) code = static_cast<uint8_t>(random.Range(range.low, range.high));
  return codes;
}

std::vector<uint8_t> Packed(const std::vector<uint8_t>& codes) {
  std::vector<uint8_t> packed;
  for (size_t i = 0; i < codes.size(); i += 2) {
    packed.push_back(static_cast<uint8_t>(codes[i] % 16 + codes[i + 1] % 16 * 16));
  }
  return packed;
}

std::vector<float> Planes(const float* x, int64_t channels, int64_t pixels) {
  std::vector<float> planes(channels * pixels);
  for (int64_t i = 0; i < pixels; ++i) {
    for (int64_t c = 0; c < channels; ++c) planes[c * pixels + i] = x[i * channels + c];
  }
  return planes;
}

std::vector<float> ImageOfCodes(const std::vector<uint8_t>& codes, CodeRange range, int64_t batch,
                                int64_t pixels, int64_t channels, float scale) {
  std::vector<float> values;
  for (const uint8_t code : codes) {
    const int integer = range.is_unsigned() ? code : static_cast<int8_t>(code);
    values.push_back(static_cast<float>(integer) * scale);
  }
  std::vector<float> images;
  for (int64_t b = 0; b < batch; ++b) {
    const std::vector<float> image =
        Planes(values.data() + b * pixels * channels, channels, pixels);
    images.insert(images.end(), image.begin(), image.end());
  }
  return images;
}

std::vector<uint8_t> DefinedStage(const StageCase& c, const ConvShape& s, const uint8_t* x,
                                  float x_scale, const uint8_t* residual, float residual_scale) {
  const int64_t channels = c.stage.attributes.out_channels;
  const int64_t element = c.stage.y.is_float() ? 4 : 1;
  std::vector<uint8_t> y(s.OutPixels() * channels * element);
  for (int64_t i = 0; i < s.OutPixels() * channels; ++i) {
    const int64_t n = i % channels;
    const int64_t pixel = i / channels;
    const int32_t sum = Sum(c.stage, s, x, pixel / s.out[2], pixel % s.out[2], n);
    const float scale = x_scale * c.scales[n];
    const float bias = c.bias[c.inputs.bias_is_scalar ? 0 : n];
    RequantizeArguments r = {};
    r.sums = &sum;
    r.pixels = r.channels = 1;
    r.scales = &scale;
    r.bias = &bias;
    r.activation = c.stage.activation;
    r.place = c.stage.residual;
    r.residual = residual + (residual == nullptr ? 0 : i);
    r.residual_is_unsigned = c.stage.residual_is_unsigned;
    r.residual_scale = residual_scale;
    r.range = c.stage.y;
    r.y_scale = c.inputs.y_scale;
    r.y = y.data() + i * element;
    requantize_reference(r);
  }
  return y;
}

Parallel Backwards() {
  return {[](void*, void (*task)(void*, size_t), size_t total, void* user) {
#ifdef __SANITIZE_THREAD__
            std::thread other([=] {
              for (size_t i = 1; i < total; i += 2) task(user, i);
            });
            for (size_t i = 0; i < total; i += 2) task(user, i);
            other.join();
#else
            for (size_t i = total; i > 0; --i) task(user, i - 1);
#endif
          },
          nullptr};
}

Tally TallyOf(const std::string& name) {
  static std::deque<std::string> names;  // which stay where they are: tallies point to them
  names.push_back(name + "_" + IsaName(SelectedIsa().isa));
  return {names.back().c_str(), true};
}

}  // namespace edgefold::selftest
