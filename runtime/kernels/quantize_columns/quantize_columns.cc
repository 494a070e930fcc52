// SPDX-License-Identifier: Apache-2.0
#include "kernels/quantize_columns/quantize_columns.h"

namespace edgefold {

KernelTable<QuantizeColumnsKernel> QuantizeColumnsKernels() {
  static constexpr Kernel<QuantizeColumnsKernel> kRows[] = {
#define EF_KERNEL(isa, symbol) {#symbol, Isa::isa, symbol},
#include "kernels/quantize_columns/kernels.inc"
#undef EF_KERNEL
  };
  return {kRows, sizeof kRows / sizeof *kRows};
}

}  // namespace edgefold
