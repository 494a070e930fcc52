// SPDX-License-Identifier: Apache-2.0
#include "base/x86_avx2_low_bytes.h"
#include "base/x86_some_lanes.h"
#include "kernels/softmax/lanes.h"

namespace edgefold {

void softmax_x86_avx2(const SoftmaxArguments& s) { Softmax<8, PackedBytes, Avx2SomeLanes>(s); }

}  // namespace edgefold
