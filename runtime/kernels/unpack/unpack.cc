// SPDX-License-Identifier: Apache-2.0
#include "kernels/unpack/unpack.h"

namespace edgefold {

KernelTable<UnpackKernel> UnpackKernels() {
  static constexpr Kernel<UnpackKernel> kRows[] = {
#define EF_KERNEL(isa, symbol) {#symbol, Isa::isa, symbol},
#include "kernels/unpack/kernels.inc"
#undef EF_KERNEL
  };
  return {kRows, sizeof kRows / sizeof *kRows};
}

}  // namespace edgefold
