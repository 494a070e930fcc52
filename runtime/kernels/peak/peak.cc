// SPDX-License-Identifier: Apache-2.0
#include "kernels/peak/peak.h"

namespace edgefold {

KernelTable<PeakKernel> PeakKernels() {
  static constexpr Kernel<PeakKernel> kRows[] = {
#define EF_KERNEL(isa, symbol) {#symbol, Isa::isa, symbol},
#include "kernels/peak/kernels.inc"
#undef EF_KERNEL
  };
  return {kRows, sizeof kRows / sizeof *kRows};
}

}  // namespace edgefold
