// SPDX-License-Identifier: Apache-2.0
#include "kernels/activation/formulas.h"

namespace edgefold {

void activation_arm_neon(const ActivationArguments& a) { Activate<4>(a); }

}  // namespace edgefold
