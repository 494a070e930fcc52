// SPDX-License-Identifier: Apache-2.0
#include "kernels/conv_quantize/conv_quantize.h"

namespace edgefold {

KernelTable<ConvQuantizeKernel> ConvQuantizeKernels() {
  static constexpr Kernel<ConvQuantizeKernel> kRows[] = {
#define EF_KERNEL(isa, symbol) {#symbol, Isa::isa, symbol},
#include "kernels/conv_quantize/kernels.inc"
#undef EF_KERNEL
  };
  return {kRows, sizeof kRows / sizeof *kRows};
}

}  // namespace edgefold
