// SPDX-License-Identifier: Apache-2.0
#include "kernels/requantize/requantize.h"

namespace edgefold {

KernelTable<RequantizeKernel> RequantizeKernels() {
  static constexpr Kernel<RequantizeKernel> kRows[] = {
#define EF_KERNEL(isa, symbol) {#symbol, Isa::isa, symbol},
#include "kernels/requantize/kernels.inc"
#undef EF_KERNEL
  };
  return {kRows, sizeof kRows / sizeof *kRows};
}

}  // namespace edgefold
