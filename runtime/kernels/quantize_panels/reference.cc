// SPDX-License-Identifier: Apache-2.0
#include "kernels/quantize_panels/lanes.h"

namespace edgefold {

void quantize_panels_reference(const QuantizePanelsArguments& q) { QuantizePanels<1>(q); }

}  // namespace edgefold
