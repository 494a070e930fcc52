// SPDX-License-Identifier: Apache-2.0
#include "ops/conv_shape.h"

namespace edgefold {

bool ConvAttributes::Padded() const {
  for (int d = 0; d < kSpatialDims; ++d) {
    if (pads_begin[d] != 0 || pads_end[d] != 0) return true;
  }
  return false;
}

bool ConvAttributes::Pointwise() const {
  return Taps() == 1 && strides[0] * strides[1] * strides[2] == 1 && !Padded();
}

bool MakeConvShape(const ConvAttributes& a, const int64_t* in, ConvShape* shape) {
  const int64_t channels = a.in_channels > a.out_channels ? a.in_channels : a.out_channels;
  int64_t room_in = kMaxImageElements / (channels + 63);
  int64_t room_out = room_in;
  for (int d = 0; d < kSpatialDims; ++d) {
    if (in[d] < 1 || in[d] > kMaxImageElements) return false;
    shape->in[d] = in[d];
    shape->padded[d] = in[d] + a.pads_begin[d] + a.pads_end[d];
    const int64_t reach = a.dilations[d] * (a.kernel[d] - 1) + 1;
    if (shape->padded[d] < reach) return false;
    shape->out[d] = (shape->padded[d] - reach) / a.strides[d] + 1;
    room_in /= shape->padded[d];
    room_out /= shape->out[d];
  }
  return room_in > 0 && room_out > 0;
}

int64_t WindowStart(const ConvAttributes& a, const ConvShape& s, int64_t pixel,
                    int64_t pixel_stride) {
  const int64_t column = pixel % s.out[2] * a.strides[2];
  const int64_t row = pixel / s.out[2] % s.out[1] * a.strides[1];
  const int64_t plane = pixel / s.out[2] / s.out[1] * a.strides[0];
  return ((plane * s.padded[1] + row) * s.padded[2] + column) * pixel_stride;
}

void TapOffsets(const ConvAttributes& a, const ConvShape& s, int64_t pixel_stride,
                int64_t* offsets) {
  for (int64_t i = 0; i < a.kernel[0]; ++i) {
    for (int64_t j = 0; j < a.kernel[1]; ++j) {
      for (int64_t k = 0; k < a.kernel[2]; ++k) {
        const int64_t row = i * a.dilations[0] * s.padded[1] + j * a.dilations[1];
        *offsets++ = (row * s.padded[2] + k * a.dilations[2]) * pixel_stride;
      }
    }
  }
}

}  // namespace edgefold
