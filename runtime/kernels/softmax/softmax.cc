// SPDX-License-Identifier: Apache-2.0
#include "kernels/softmax/softmax.h"

namespace edgefold {

KernelTable<SoftmaxKernel> SoftmaxKernels() {
  static constexpr Kernel<SoftmaxKernel> kRows[] = {
#define EF_KERNEL(isa, symbol) {#symbol, Isa::isa, symbol},
#include "kernels/softmax/kernels.inc"
#undef EF_KERNEL
  };
  return {kRows, sizeof kRows / sizeof *kRows};
}

}  // namespace edgefold
