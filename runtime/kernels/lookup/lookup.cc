// SPDX-License-Identifier: Apache-2.0
#include "kernels/lookup/lookup.h"

namespace edgefold {

KernelTable<LookupKernel> LookupKernels() {
  static constexpr Kernel<LookupKernel> kRows[] = {
#define EF_KERNEL(isa, symbol) {#symbol, Isa::isa, symbol},
#include "kernels/lookup/kernels.inc"
#undef EF_KERNEL
  };
  return {kRows, sizeof kRows / sizeof *kRows};
}

}  // namespace edgefold
