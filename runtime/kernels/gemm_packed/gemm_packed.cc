// SPDX-License-Identifier: Apache-2.0
#include "kernels/gemm_packed/gemm_packed.h"

namespace edgefold {

KernelTable<GemmPackedKernel> GemmPackedKernels() {
  static constexpr Kernel<GemmPackedKernel> kRows[] = {
#define EF_KERNEL(isa, symbol) {#symbol, Isa::isa, symbol},
#include "kernels/gemm_packed/kernels.inc"
#undef EF_KERNEL
  };
  return {kRows, sizeof kRows / sizeof *kRows};
}

}  // namespace edgefold
