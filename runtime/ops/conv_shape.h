// SPDX-License-Identifier: Apache-2.0
// Attributes of a convolution and the sizes that follow from them.
#pragma once

#include <cstdint>

namespace edgefold {

// One to three spatial dimensions are kept as three; the missing ones stand first and have kernel,
// stride, dilation and size 1 and no padding.
inline constexpr int kSpatialDims = 3;

// Bounds that keep every size computed below inside int64.
inline constexpr int64_t kMaxConvAttribute = 1 << 16;
inline constexpr int64_t kMaxImageElements = int64_t{1} << 40;

struct ConvAttributes {
  int64_t kernel[kSpatialDims];
  int64_t strides[kSpatialDims];
  int64_t pads_begin[kSpatialDims];
  int64_t pads_end[kSpatialDims];
  int64_t dilations[kSpatialDims];
  int64_t group;
  int64_t in_channels;
  int64_t out_channels;

  int64_t Taps() const { return kernel[0] * kernel[1] * kernel[2]; }
  int64_t GroupInputs() const { return in_channels / group; }
  int64_t GroupOutputs() const { return out_channels / group; }
  bool Depthwise() const { return GroupInputs() == 1 && GroupOutputs() == 1; }
  bool Padded() const;
  // Output pixels see exactly the input pixels, one each.
  bool Pointwise() const;
};

struct ConvShape {
  int64_t in[kSpatialDims];
  int64_t padded[kSpatialDims];
  int64_t out[kSpatialDims];

  int64_t InPixels() const { return in[0] * in[1] * in[2]; }
  int64_t PaddedPixels() const { return padded[0] * padded[1] * padded[2]; }
  int64_t OutPixels() const { return out[0] * out[1] * out[2]; }
};

// Sizes for an input of these spatial dimensions. False when the kernel does not fit the padded
// input, a dimension is empty, or an image exceeds kMaxImageElements.
bool MakeConvShape(const ConvAttributes& attributes, const int64_t* in, ConvShape* shape);

// Element offsets, within a padded channel-last image, of a window's first output pixel `pixel`.
int64_t WindowStart(const ConvAttributes& attributes, const ConvShape& shape, int64_t pixel,
                    int64_t pixel_stride);

// offsets[t] = elements from a window's start to kernel position t, row-major.
void TapOffsets(const ConvAttributes& attributes, const ConvShape& shape, int64_t pixel_stride,
                int64_t* offsets);

}  // namespace edgefold
