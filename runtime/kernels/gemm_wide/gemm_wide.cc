// SPDX-License-Identifier: Apache-2.0
#include "kernels/gemm_wide/gemm_wide.h"

namespace edgefold {

KernelTable<GemmWideKernel> GemmWideKernels() {
  static constexpr Kernel<GemmWideKernel> kRows[] = {
#define EF_KERNEL(isa, symbol) {#symbol, Isa::isa, symbol},
#include "kernels/gemm_wide/kernels.inc"
#undef EF_KERNEL
  };
  return {kRows, sizeof kRows / sizeof *kRows};
}

}  // namespace edgefold
