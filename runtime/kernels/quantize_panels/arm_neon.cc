// SPDX-License-Identifier: Apache-2.0
#include "kernels/quantize_panels/lanes.h"

namespace edgefold {

void quantize_panels_arm_neon(const QuantizePanelsArguments& q) { QuantizePanels<4>(q); }

}  // namespace edgefold
