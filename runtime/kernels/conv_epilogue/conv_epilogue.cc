// SPDX-License-Identifier: Apache-2.0
#include "kernels/conv_epilogue/conv_epilogue.h"

namespace edgefold {

KernelTable<ConvEpilogueKernel> ConvEpilogueKernels() {
  static constexpr Kernel<ConvEpilogueKernel> kRows[] = {
#define EF_KERNEL(isa, symbol) {#symbol, Isa::isa, symbol},
#include "kernels/conv_epilogue/kernels.inc"
#undef EF_KERNEL
  };
  return {kRows, sizeof kRows / sizeof *kRows};
}

}  // namespace edgefold
