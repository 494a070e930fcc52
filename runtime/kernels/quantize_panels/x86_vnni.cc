// SPDX-License-Identifier: Apache-2.0
#include "base/x86_avx512_low_bytes.h"
#include "kernels/quantize_panels/lanes.h"

namespace edgefold {

void quantize_panels_x86_vnni(const QuantizePanelsArguments& q) {
  QuantizePanels<16, PackedBytes512>(q);
}

}  // namespace edgefold
