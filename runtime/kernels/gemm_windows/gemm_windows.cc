// SPDX-License-Identifier: Apache-2.0
#include "kernels/gemm_windows/gemm_windows.h"

namespace edgefold {

KernelTable<GemmWindowsKernel> GemmWindowsKernels() {
  static constexpr Kernel<GemmWindowsKernel> kRows[] = {
#define EF_KERNEL(isa, symbol) {#symbol, Isa::isa, symbol},
#include "kernels/gemm_windows/kernels.inc"
#undef EF_KERNEL
  };
  return {kRows, sizeof kRows / sizeof *kRows};
}

}  // namespace edgefold
