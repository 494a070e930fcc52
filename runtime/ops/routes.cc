// SPDX-License-Identifier: Apache-2.0
#include "ops/routes.h"

#include <algorithm>

namespace edgefold {

Routes::Routes(const float* gates, int64_t tokens, int64_t experts, int64_t tall) {
  const int64_t pairs = tokens * experts;
  slots_ = pairs - std::count(gates, gates + pairs, 0.0f);
  const int64_t most_tiles = experts + slots_ / tall;
  const int64_t integers = (experts + 1) + (tokens + 1) + slots_;
  memory_ = AllocateScratch(most_tiles * static_cast<int64_t>(sizeof(SlotTile)) + integers * 8 +
                            slots_ * 4);
  if (memory_ == nullptr) return;
  tile_ = reinterpret_cast<SlotTile*>(memory_.get());
  int64_t* next = reinterpret_cast<int64_t*>(tile_ + most_tiles);  // [experts + 1]
  first_of_token_ = next + experts + 1;
  slot_ = first_of_token_ + tokens + 1;
  gate_ = reinterpret_cast<float*>(slot_ + slots_);

  std::fill(next, next + experts + 1, 0);
  for (int64_t t = 0; t < tokens; ++t) {
    for (int64_t e = 0; e < experts; ++e) next[e + 1] += gates[t * experts + e] != 0.0f;
  }
  for (int64_t e = 0; e < experts; ++e) next[e + 1] += next[e];
  CutTiles(next, experts, tall);

  int64_t pair = 0;
  for (int64_t t = 0; t < tokens; ++t) {
    first_of_token_[t] = pair;
    for (int64_t e = 0; e < experts; ++e) {
      const float gate = gates[t * experts + e];
      if (gate == 0.0f) continue;
      gate_[pair] = gate;
      slot_[pair++] = next[e]++;
    }
  }
  first_of_token_[tokens] = pair;
}

void Routes::CutTiles(const int64_t* first_of_expert, int64_t experts, int64_t tall) {
  for (int64_t e = 0; e < experts; ++e) {
    const int64_t last = first_of_expert[e + 1];
    for (int64_t first = first_of_expert[e]; first < last; first += tall) {
      tile_[tiles_++] = {e, first, std::min(tall, last - first)};
    }
  }
}

}  // namespace edgefold
