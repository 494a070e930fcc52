// SPDX-License-Identifier: Apache-2.0
#include "kernels/l1_norm/l1_norm.h"

namespace edgefold {

KernelTable<L1NormKernel> L1NormKernels() {
  static constexpr Kernel<L1NormKernel> kRows[] = {
#define EF_KERNEL(isa, symbol) {#symbol, Isa::isa, symbol},
#include "kernels/l1_norm/kernels.inc"
#undef EF_KERNEL
  };
  return {kRows, sizeof kRows / sizeof *kRows};
}

}  // namespace edgefold
