// SPDX-License-Identifier: Apache-2.0
#include "ops/choose_product.h"

#include "kernels/gemm/gemm.h"

namespace edgefold {

GemmShiftKernel* ChooseGemmShift(const PackedMatrix& matrix) {
  const Kernel<GemmShiftKernel>& row = GemmShiftKernels().Choose();
  const bool pays = row.isa != Isa::kReference && row.isa == GemmKernels().Choose().isa;
  return pays && GemmShiftApplies(matrix) ? row.run : nullptr;
}

ConvSumsKernel* ChooseSums() {
  const bool read = GemmKernels().Choose().isa == Isa::kVnni;
  return read ? ConvSumsKernels().Choose().run : nullptr;
}

}  // namespace edgefold
