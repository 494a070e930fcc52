// SPDX-License-Identifier: Apache-2.0
#include "kernels/conv_sums/conv_sums.h"

namespace edgefold {

KernelTable<ConvSumsKernel> ConvSumsKernels() {
  static constexpr Kernel<ConvSumsKernel> kRows[] = {
#define EF_KERNEL(isa, symbol) {#symbol, Isa::isa, symbol},
#include "kernels/conv_sums/kernels.inc"
#undef EF_KERNEL
  };
  return {kRows, sizeof kRows / sizeof *kRows};
}

}  // namespace edgefold
