// SPDX-License-Identifier: Apache-2.0
#include "ops/feed_forward.h"

#include <algorithm>

#include "base/scratch.h"

namespace edgefold {

bool FeedForward::Run(const FeedForwardInputs& inputs, const Parallel& parallel) const {
  const int64_t rows = inputs.up.rows;
  const int64_t k = up_.matrix().k;
  const int64_t n = down_.matrix().n;
  const Scratch memory = AllocateScratch(std::min(rows, kRowsPerTile) * up_.matrix().n * 4);
  if (memory == nullptr) return false;
  float* hidden = reinterpret_cast<float*>(memory.get());
  for (int64_t first = 0; first < rows; first += kRowsPerTile) {
    LinearInputs up = inputs.up;
    up.x = static_cast<const float*>(inputs.up.x) + first * k;
    up.rows = std::min(kRowsPerTile, rows - first);
    up.activation = IsIdentity(activation_) ? nullptr : &activation_;
    up.y = hidden;
    LinearInputs down = inputs.down;
    down.x = hidden;
    down.rows = up.rows;
    if (down.residual != nullptr) down.residual += first * n;
    down.y += first * n;
    if (!up_.Run(up, parallel) || !down_.Run(down, parallel)) return false;
  }
  return true;
}

}  // namespace edgefold
