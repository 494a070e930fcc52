// SPDX-License-Identifier: Apache-2.0
#include "kernels/quantize_columns/lanes.h"

namespace edgefold {

void quantize_columns_reference(const QuantizeColumnsArguments& q) { QuantizeColumns<1>(q); }

}  // namespace edgefold
