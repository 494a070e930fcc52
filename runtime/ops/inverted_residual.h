// SPDX-License-Identifier: Apache-2.0
// Expand 1x1 -> depthwise kxk -> project 1x1 (+ x): the body of FusedInvertedResidual, without ONNX
// Runtime. Equal bit for bit to the three as ConvBlocks, but the expanded image never exists: a
// ring holds the few expanded rows that the depthwise convolution reads ("Fused-layer CNN
// accelerators", MICRO 2016, section 3, reuse rather than recompute).
#pragma once

#include <optional>
#include <vector>

#include "base/parallel.h"
#include "base/scratch.h"
#include "kernels/conv_depthwise/conv_depthwise.h"
#include "ops/code_image.h"
#include "ops/code_product.h"
#include "ops/conv_stage.h"
#include "ops/stage_finish.h"

namespace edgefold {

// What the codes of one stage are is what the next one takes: depthwise.x is expand.y, project.x is
// depthwise.y. Only `project` may have a residual, which is x itself; only the first stage's x and
// project.y may be float images.
struct InvertedResidualStages {
  bool has_expand;  // false: depthwise reads x, as in a block of expansion 1
  ConvStage expand;
  ConvStage depthwise;
  ConvStage project;
};

struct InvertedResidualInputs {
  const void* x;  // codes, or a float image where the first stage says so
  int64_t batch;
  ConvShape shape;  // of the depthwise stage: MakeConvShape(depthwise.attributes, ...)
  float x_scale;    // > 0; also that of the residual
  StageInputs expand;
  StageInputs depthwise;
  StageInputs project;
  void* y;  // codes, or a float image
};

// Read-only once made; Run may be called from several threads at a time.
class InvertedResidual {
 public:
  // The memory of the stages' matrices and scales must outlive this object.
  explicit InvertedResidual(const InvertedResidualStages& stages);

  // False when memory for the call could not be had.
  bool Run(const InvertedResidualInputs& inputs, const Parallel& parallel) const;

  // Bytes that one thread works in, for a cost model: ring, rows between the stages, sums.
  int64_t WorkspaceBytes(const ConvShape& shape) const;

  const InvertedResidualStages& stages() const { return stages_; }

 private:
  struct Plan;  // sizes that follow from a shape
  struct Call;  // what the tasks of one Run share
  struct Work;  // the memory of a task

  Plan MakePlan(const ConvShape& shape) const;
  Scratch Prepare(const Parallel& parallel, Call* call) const;
  bool RunBand(const Call& call, int64_t first_row, int64_t rows, Scratch* memory) const;
  void FillRing(const Call& call, const Work& work, int64_t first, int64_t last) const;
  void ExpandRows(const Call& call, const Work& work, int64_t first, int64_t rows) const;
  void ConvolveRun(const Call& call, const Work& work, int64_t pixel, int64_t pixels,
                   uint8_t* out) const;
  void ProjectRows(const Call& call, const Work& work, int64_t pixel, int64_t pixels) const;

  InvertedResidualStages stages_;
  CodeImage image_;
  std::optional<CodeProduct> expand_;
  CodeProduct project_;
  StageFinish finish_expand_;
  StageFinish finish_depthwise_;
  StageFinish finish_project_;
  std::vector<int16_t> tap_pairs_;
  ConvDepthwiseKernel* depthwise_;
};

}  // namespace edgefold
