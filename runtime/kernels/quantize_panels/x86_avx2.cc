// SPDX-License-Identifier: Apache-2.0
#include "base/x86_avx2_low_bytes.h"
#include "kernels/quantize_panels/lanes.h"

namespace edgefold {

void quantize_panels_x86_avx2(const QuantizePanelsArguments& q) {
  QuantizePanels<8, PackedBytes>(q);
}

}  // namespace edgefold
