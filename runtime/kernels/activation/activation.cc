// SPDX-License-Identifier: Apache-2.0
#include "kernels/activation/activation.h"

namespace edgefold {

KernelTable<ActivationKernel> ActivationKernels() {
  static constexpr Kernel<ActivationKernel> kRows[] = {
#define EF_KERNEL(isa, symbol) {#symbol, Isa::isa, symbol},
#include "kernels/activation/kernels.inc"
#undef EF_KERNEL
  };
  return {kRows, sizeof kRows / sizeof *kRows};
}

}  // namespace edgefold
