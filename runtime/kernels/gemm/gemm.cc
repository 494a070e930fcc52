// SPDX-License-Identifier: Apache-2.0
#include "kernels/gemm/gemm.h"

namespace edgefold {

KernelTable<GemmKernel> GemmKernels() {
  static constexpr Kernel<GemmKernel> kRows[] = {
#define EF_KERNEL(isa, symbol) {#symbol, Isa::isa, symbol},
#include "kernels/gemm/kernels.inc"
#undef EF_KERNEL
  };
  return {kRows, sizeof kRows / sizeof *kRows};
}

}  // namespace edgefold
