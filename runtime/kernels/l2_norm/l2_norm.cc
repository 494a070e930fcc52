// SPDX-License-Identifier: Apache-2.0
#include "kernels/l2_norm/l2_norm.h"

namespace edgefold {

KernelTable<L2NormKernel> L2NormKernels() {
  static constexpr Kernel<L2NormKernel> kRows[] = {
#define EF_KERNEL(isa, symbol) {#symbol, Isa::isa, symbol},
#include "kernels/l2_norm/kernels.inc"
#undef EF_KERNEL
  };
  return {kRows, sizeof kRows / sizeof *kRows};
}

}  // namespace edgefold
