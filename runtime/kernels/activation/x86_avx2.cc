// SPDX-License-Identifier: Apache-2.0
#include "kernels/activation/formulas.h"

namespace edgefold {

void activation_x86_avx2(const ActivationArguments& a) { Activate<8>(a); }

}  // namespace edgefold
