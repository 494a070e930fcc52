// SPDX-License-Identifier: Apache-2.0
#include "kernels/arrange/arrange.h"

namespace edgefold {

KernelTable<ArrangeKernel> ArrangeKernels() {
  static constexpr Kernel<ArrangeKernel> kRows[] = {
#define EF_KERNEL(isa, symbol) {#symbol, Isa::isa, symbol},
#include "kernels/arrange/kernels.inc"
#undef EF_KERNEL
  };
  return {kRows, sizeof kRows / sizeof *kRows};
}

}  // namespace edgefold
