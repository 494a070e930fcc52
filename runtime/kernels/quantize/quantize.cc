// SPDX-License-Identifier: Apache-2.0
#include "kernels/quantize/quantize.h"

namespace edgefold {

KernelTable<QuantizeKernel> QuantizeKernels() {
  static constexpr Kernel<QuantizeKernel> kRows[] = {
#define EF_KERNEL(isa, symbol) {#symbol, Isa::isa, symbol},
#include "kernels/quantize/kernels.inc"
#undef EF_KERNEL
  };
  return {kRows, sizeof kRows / sizeof *kRows};
}

}  // namespace edgefold
