// SPDX-License-Identifier: Apache-2.0
// Which rows go to which expert, grouped by expert.
//
// Every pair of a token and an expert with a gate other than 0 is a slot. Slots are numbered expert
// by expert, and within an expert by token, both ascending.
#pragma once

#include <cstdint>

#include "base/scratch.h"

namespace edgefold {

// Consecutive slots of one expert.
struct SlotTile {
  int64_t expert;
  int64_t first;
  int64_t slots;
};

class Routes {
 public:
  // gates: [tokens][experts]. A tile has at most `tall` slots. ok() is false where memory could not
  // be had.
  Routes(const float* gates, int64_t tokens, int64_t experts, int64_t tall);

  bool ok() const { return memory_ != nullptr; }
  int64_t slots() const { return slots_; }
  // The slots of token t, their experts ascending: SlotsOf(t)[0 .. CountOf(t) - 1].
  const int64_t* SlotsOf(int64_t t) const { return slot_ + first_of_token_[t]; }
  int64_t CountOf(int64_t t) const { return first_of_token_[t + 1] - first_of_token_[t]; }
  // The gates of those slots.
  const float* GatesOf(int64_t t) const { return gate_ + first_of_token_[t]; }

  int64_t tiles() const { return tiles_; }
  const SlotTile& tile(int64_t index) const { return tile_[index]; }

 private:
  void CutTiles(const int64_t* first_of_expert, int64_t experts, int64_t tall);

  Scratch memory_;
  int64_t slots_ = 0;
  int64_t tiles_ = 0;
  SlotTile* tile_;           // [tiles]
  int64_t* first_of_token_;  // [tokens + 1]
  int64_t* slot_;            // [slots], token by token
  float* gate_;              // [slots], token by token
};

}  // namespace edgefold
