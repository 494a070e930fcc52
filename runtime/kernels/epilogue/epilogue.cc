// SPDX-License-Identifier: Apache-2.0
#include "kernels/epilogue/epilogue.h"

namespace edgefold {

KernelTable<EpilogueKernel> EpilogueKernels() {
  static constexpr Kernel<EpilogueKernel> kRows[] = {
#define EF_KERNEL(isa, symbol) {#symbol, Isa::isa, symbol},
#include "kernels/epilogue/kernels.inc"
#undef EF_KERNEL
  };
  return {kRows, sizeof kRows / sizeof *kRows};
}

}  // namespace edgefold
