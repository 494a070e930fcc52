// SPDX-License-Identifier: Apache-2.0
#include "kernels/quantize_columns/lanes.h"

namespace edgefold {

void quantize_columns_x86_avx2(const QuantizeColumnsArguments& q) { QuantizeColumns<8>(q); }

}  // namespace edgefold
