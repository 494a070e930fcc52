// SPDX-License-Identifier: Apache-2.0
#include "kernels/activation/formulas.h"

namespace edgefold {

void activation_x86_vnni(const ActivationArguments& a) { Activate<16>(a); }

}  // namespace edgefold
