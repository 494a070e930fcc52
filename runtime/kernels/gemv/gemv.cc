// SPDX-License-Identifier: Apache-2.0
#include "kernels/gemv/gemv.h"

namespace edgefold {

KernelTable<GemvKernel> GemvKernels() {
  static constexpr Kernel<GemvKernel> kRows[] = {
#define EF_KERNEL(isa, symbol) {#symbol, Isa::isa, symbol},
#include "kernels/gemv/kernels.inc"
#undef EF_KERNEL
  };
  return {kRows, sizeof kRows / sizeof *kRows};
}

}  // namespace edgefold
