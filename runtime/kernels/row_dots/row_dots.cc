// SPDX-License-Identifier: Apache-2.0
#include "kernels/row_dots/row_dots.h"

namespace edgefold {

KernelTable<RowDotsKernel> RowDotsKernels() {
  static constexpr Kernel<RowDotsKernel> kRows[] = {
#define EF_KERNEL(isa, symbol) {#symbol, Isa::isa, symbol},
#include "kernels/row_dots/kernels.inc"
#undef EF_KERNEL
  };
  return {kRows, sizeof kRows / sizeof *kRows};
}

}  // namespace edgefold
