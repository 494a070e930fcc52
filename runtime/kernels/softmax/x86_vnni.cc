// SPDX-License-Identifier: Apache-2.0
#include "base/x86_avx512_low_bytes.h"
#include "base/x86_some_lanes.h"
#include "kernels/softmax/lanes.h"

namespace edgefold {

void softmax_x86_vnni(const SoftmaxArguments& s) {
  Softmax<16, PackedBytes512, Avx512SomeLanes>(s);
}

}  // namespace edgefold
