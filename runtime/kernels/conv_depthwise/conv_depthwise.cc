// SPDX-License-Identifier: Apache-2.0
#include "kernels/conv_depthwise/conv_depthwise.h"

namespace edgefold {

KernelTable<ConvDepthwiseKernel> ConvDepthwiseKernels() {
  static constexpr Kernel<ConvDepthwiseKernel> kRows[] = {
#define EF_KERNEL(isa, symbol) {#symbol, Isa::isa, symbol},
#include "kernels/conv_depthwise/kernels.inc"
#undef EF_KERNEL
  };
  return {kRows, sizeof kRows / sizeof *kRows};
}

}  // namespace edgefold
