// SPDX-License-Identifier: Apache-2.0
// How near to a tie between two codes an estimate has to leave the code to the formula, over a
// compiler vector of any number of lanes. Private to the file that includes it, as formulas.h.
#pragma once

#include "kernels/activation/formulas.h"
#include "kernels/requantize/estimate.h"

namespace edgefold {
namespace {

// In fixed point of 16 fractional bits. A code is the high half of e + tie, and certain where the
// low half is more than `near`: then e is further than its error from the ties on both sides.
template <int kLanes>
struct Margin {
  using Floats = typename Formulas<kLanes>::Floats;

  // `added` is |b| + |r| of estimate.h, or NaN where numbers are not finite: there nothing is
  // certain.
  inline Margin(const CodeEstimate& e, Floats added) {
    tie = added * e.error_of_added + (e.error + 0x1p15f);
    const Floats both_sides = tie * 2.0f - 0xffff;  // twice the error, and 1
    const Floats all = Formulas<kLanes>::All(0xffff);
    near = both_sides < all ? both_sides : all;
  }

  Floats tie, near;
};

}  // namespace
}  // namespace edgefold
