// SPDX-License-Identifier: Apache-2.0
#include <cmath>
#include <limits>

#include "kernels/quantize_panels/quantize_panels.h"
#include "selftest.h"

namespace edgefold::selftest {

std::vector<Tally> TestQuantizePanels() {
  const KernelTable<QuantizePanelsKernel> kernels = QuantizePanelsKernels();
  std::vector<Tally> tallies = Tallies(kernels);
  Random random(29);
  for (int64_t rows : {0, 1, 3, 4, 5, 33, 64}) {
    for (int64_t columns : {1, 3, 8, 15, 16, 17, 40}) {
      for (int kind = 0; kind < 4; ++kind) {
        const bool odd = kind % 2 == 1;
        const bool transposed = kind / 2 == 1;
        const int64_t x_stride = columns + random.Range(0, 2) * 5;
        std::vector<float> x(rows * x_stride);
        for (float& value : x) {
          value = random.Uniform() * (random.Next() % 4 == 0 ? 1e-31f : 5.0f);
          if (!odd || random.Next() % 8 != 0) continue;
          const bool nan = random.Next() % 2 == 0;
          value = nan ? std::numeric_limits<float>::quiet_NaN() : std::ldexp(value, 200);
        }
        const int64_t wide = transposed ? rows : columns;
        const int64_t deep = transposed ? columns : rows;
        const int64_t bytes = (wide + 15) / 16 * ((deep + 3) / 4) * kUnitCodes;
        QuantizePanelsArguments q = {x.data(),   x_stride, rows,   columns,
                                     transposed, nullptr,  nullptr};
        Guarded<int8_t> panels(bytes);
        Guarded<float> scales(rows);
        q.panels = panels.data();
        q.scales = scales.data();
        quantize_panels_reference(q);
        for (size_t i = 0; i < kernels.size; ++i) {
          if (!tallies[i].supported) continue;
          Guarded<int8_t> got_panels(bytes);
          Guarded<float> got_scales(rows);
          q.panels = got_panels.data();
          q.scales = got_scales.data();
          kernels.rows[i].run(q);
          char where[60];
          std::snprintf(where, sizeof where, "rows %d columns %d kind %d", static_cast<int>(rows),
                        static_cast<int>(columns), kind);
          tallies[i].Check(got_panels.Equals(panels) && got_scales.Equals(scales), where);
        }
      }
    }
  }
  return tallies;
}

}  // namespace edgefold::selftest
