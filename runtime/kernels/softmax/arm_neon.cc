// SPDX-License-Identifier: Apache-2.0
#include "kernels/softmax/lanes.h"

namespace edgefold {

void softmax_arm_neon(const SoftmaxArguments& s) { Softmax<4>(s); }

}  // namespace edgefold
