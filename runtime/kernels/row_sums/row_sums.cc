// SPDX-License-Identifier: Apache-2.0
#include "kernels/row_sums/row_sums.h"

namespace edgefold {

KernelTable<RowSumsKernel> RowSumsKernels() {
  static constexpr Kernel<RowSumsKernel> kRows[] = {
#define EF_KERNEL(isa, symbol) {#symbol, Isa::isa, symbol},
#include "kernels/row_sums/kernels.inc"
#undef EF_KERNEL
  };
  return {kRows, sizeof kRows / sizeof *kRows};
}

}  // namespace edgefold
