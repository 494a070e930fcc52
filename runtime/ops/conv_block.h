// SPDX-License-Identifier: Apache-2.0
// One convolution between channel-last codes: the body of FusedConvBlock, without ONNX Runtime.
//
// Pointwise convolutions are matrix products on the pixels as they lie. Others work through bands
// of output rows, each on a zero-padded copy of the input rows it reads: windows are the rows of a
// matrix product where no panel of 16 output channels reads more than two groups, read in place or
// copied as the product wants them; else each panel is convolved directly.
#pragma once

#include <optional>
#include <vector>

#include "base/parallel.h"
#include "kernels/conv_depthwise/conv_depthwise.h"
#include "ops/code_image.h"
#include "ops/code_product.h"
#include "ops/conv_stage.h"
#include "ops/im2col.h"
#include "ops/spread_groups.h"
#include "ops/stage_finish.h"

namespace edgefold {

struct ConvBlockInputs {
  const void* x;  // codes, or a float image where the stage says so
  int64_t batch;
  ConvShape shape;  // MakeConvShape(stage.attributes, ...)
  float x_scale;    // > 0
  StageInputs stage;
  const void* residual;  // codes like y's: [batch][out height][out width][out_channels]; or null
  float residual_scale;
  void* y;  // codes, or a float image
};

// Read-only once made; Run may be called from several threads at a time.
class ConvBlock {
 public:
  // The memory of stage.matrix and stage.scales must outlive this object.
  explicit ConvBlock(const ConvStage& stage);

  // False when memory for the call could not be had.
  bool Run(const ConvBlockInputs& inputs, const Parallel& parallel) const;

  const ConvStage& stage() const { return stage_; }

 private:
  struct Call;    // what the tasks of one Run share
  struct Band;    // some output rows, and the zero-padded input rows that they read
  struct Panels;  // of each part: a task's share
  struct Direct;  // what the direct convolution of a band works with

  bool direct() const { return !product_.has_value(); }
  int64_t RunTaps() const;
  // Independent products: groups, or panels of two groups. PartInputs channels from FirstInput on
  // give PartPanels panels.
  int64_t Parts() const { return spread_ ? stage_.matrix.Panels() : stage_.attributes.group; }
  int64_t PartPanels() const { return stage_.matrix.Panels() / Parts(); }
  int64_t PartInputs() const {
    return spread_ ? spread_->inputs() : stage_.attributes.GroupInputs();
  }
  int64_t FirstInput(int64_t part) const {
    return spread_ ? spread_->FirstInput(part) : part * stage_.attributes.GroupInputs();
  }
  int64_t BandSlack() const;
  // Of a code of a band: wider where the product reads windows of such.
  int64_t CodeBytes() const { return reads_windows_ ? product_->WindowCodeBytes() : 1; }
  StageFinish::Target Target(const Call& call, int64_t pixel) const;
  int64_t PointwiseRows(int64_t pixels) const;
  bool RunPointwise(const Call& call, const Parallel& parallel) const;
  bool PointwiseBlock(const Call& call, int64_t first_pixel, int64_t pixels, int64_t first_panel,
                      int64_t panels) const;
  bool RunBands(const Call& call, const Parallel& parallel) const;
  void FillBand(const Call& call, const Band& band) const;
  bool BandWindows(const Call& call, const Band& band, const Panels& panels) const;
  bool BandProduct(const Call& call, const Band& band, const Panels& panels) const;
  WindowRuns Runs(const ConvShape& shape, int64_t* offsets) const;
  bool BandDirect(const Call& call, const Band& band) const;
  void DirectPixels(const Call& call, const Band& band, const Direct& direct, int64_t pixel,
                    int64_t pixels) const;
  void GatherChannels(const Band& band, int64_t panel, uint8_t* out) const;

  ConvStage stage_;
  CodeImage image_;
  StageFinish finish_;
  std::optional<SpreadGroups> spread_;  // what product_ multiplies by, where groups are narrow
  std::optional<CodeProduct> product_;
  bool reads_windows_ = false;      // of a band
  std::vector<int16_t> tap_pairs_;  // where there is no product
  ConvDepthwiseKernel* depthwise_;
};

}  // namespace edgefold
