// SPDX-License-Identifier: Apache-2.0
#include "kernels/quantize_columns/lanes.h"

namespace edgefold {

void quantize_columns_arm_neon(const QuantizeColumnsArguments& q) { QuantizeColumns<4>(q); }

}  // namespace edgefold
