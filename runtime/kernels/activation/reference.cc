// SPDX-License-Identifier: Apache-2.0
#include "kernels/activation/formulas.h"

namespace edgefold {

void activation_reference(const ActivationArguments& a) { Activate<1>(a); }

}  // namespace edgefold
