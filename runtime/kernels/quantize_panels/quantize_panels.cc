// SPDX-License-Identifier: Apache-2.0
#include "kernels/quantize_panels/quantize_panels.h"

namespace edgefold {

KernelTable<QuantizePanelsKernel> QuantizePanelsKernels() {
  static constexpr Kernel<QuantizePanelsKernel> kRows[] = {
#define EF_KERNEL(isa, symbol) {#symbol, Isa::isa, symbol},
#include "kernels/quantize_panels/kernels.inc"
#undef EF_KERNEL
  };
  return {kRows, sizeof kRows / sizeof *kRows};
}

}  // namespace edgefold
