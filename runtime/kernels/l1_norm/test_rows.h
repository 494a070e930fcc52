// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "kernels/l1_norm/l1_norm.h"
#include "selftest.h"

namespace edgefold::selftest {

// Every variant of a norm against its reference, on rows of all kinds.
std::vector<Tally> TestNorm(const KernelTable<L1NormKernel>& kernels, L1NormKernel* reference);

}  // namespace edgefold::selftest
