// SPDX-License-Identifier: Apache-2.0
#include "kernels/gemm_float/gemm_float.h"

namespace edgefold {

KernelTable<GemmFloatKernel> GemmFloatKernels() {
  static constexpr Kernel<GemmFloatKernel> kRows[] = {
#define EF_KERNEL(isa, symbol) {#symbol, Isa::isa, symbol},
#include "kernels/gemm_float/kernels.inc"
#undef EF_KERNEL
  };
  return {kRows, sizeof kRows / sizeof *kRows};
}

}  // namespace edgefold
