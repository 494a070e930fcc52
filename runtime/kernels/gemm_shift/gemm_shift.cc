// SPDX-License-Identifier: Apache-2.0
#include "kernels/gemm_shift/gemm_shift.h"

namespace edgefold {

KernelTable<GemmShiftKernel> GemmShiftKernels() {
  static constexpr Kernel<GemmShiftKernel> kRows[] = {
#define EF_KERNEL(isa, symbol) {#symbol, Isa::isa, symbol},
#include "kernels/gemm_shift/kernels.inc"
#undef EF_KERNEL
  };
  return {kRows, sizeof kRows / sizeof *kRows};
}

}  // namespace edgefold
