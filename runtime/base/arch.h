// SPDX-License-Identifier: Apache-2.0
// Instruction sets that kernels are written for, and which of them this process may use.
#pragma once

namespace edgefold {

// Within an architecture a later value is the faster one.
enum class Isa { kReference, kAvx2, kVnni, kNeon, kDotprod, kI8mm };
inline constexpr Isa kAllIsas[] = {Isa::kReference, Isa::kAvx2,    Isa::kVnni,
                                   Isa::kNeon,      Isa::kDotprod, Isa::kI8mm};

// Lower-case name, as EDGEFOLD_ISA spells it.
const char* IsaName(Isa isa);

// True when this CPU and its operating system run code compiled for `isa`.
bool IsaSupported(Isa isa);

// The fastest instruction set that kernels may use: what EDGEFOLD_ISA names, else the best
// supported one. Read once. `error` is null, or one line that says why EDGEFOLD_ISA is unusable.
struct IsaLimit {
  Isa isa;
  const char* error;
};
const IsaLimit& SelectedIsa();

}  // namespace edgefold
