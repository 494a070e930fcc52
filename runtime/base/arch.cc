// SPDX-License-Identifier: Apache-2.0
#include "base/arch.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>

#if defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#endif

namespace edgefold {
namespace {

#if defined(__x86_64__)
bool HasAvx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }
bool HasVnni() {
  return HasAvx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
         __builtin_cpu_supports("avx512vbmi") && __builtin_cpu_supports("avx512vnni");
}
#endif

#if defined(__aarch64__)
// Bits of AT_HWCAP and AT_HWCAP2, named in the kernel's uapi/asm/hwcap.h.
bool HasDotprod() {
#if defined(__linux__)
  return (getauxval(AT_HWCAP) >> 20 & 1) != 0;
#else
  return true;  // Every 64-bit Apple core since A12 has it.
#endif
}
bool HasI8mm() {
#if defined(__linux__)
  return HasDotprod() && (getauxval(AT_HWCAP2) >> 13 & 1) != 0;
#else
  return false;
#endif
}
#endif

Isa Best() {
  Isa best = Isa::kReference;
  for (Isa isa : kAllIsas) {
    if (IsaSupported(isa)) best = isa;
  }
  return best;
}

IsaLimit Select() {
  static char error[200];
  const char* wanted = std::getenv("EDGEFOLD_ISA");
  if (wanted == nullptr || *wanted == '\0') return {Best(), nullptr};
  for (Isa isa : kAllIsas) {
    if (std::strcmp(wanted, IsaName(isa)) != 0) continue;
    if (IsaSupported(isa)) return {isa, nullptr};
    std::snprintf(error, sizeof error, "EDGEFOLD_ISA=%s: this CPU does not support it; %s does run",
                  IsaName(isa), IsaName(Best()));
    return {Isa::kReference, error};
  }
  std::snprintf(error, sizeof error,
                "EDGEFOLD_ISA=%.40s: expected reference, avx2, vnni, neon, dotprod or i8mm",
                wanted);
  return {Isa::kReference, error};
}

}  // namespace

const char* IsaName(Isa isa) {
  switch (isa) {
    case Isa::kReference:
      return "reference";
    case Isa::kAvx2:
      return "avx2";
    case Isa::kVnni:
      return "vnni";
    case Isa::kNeon:
      return "neon";
    case Isa::kDotprod:
      return "dotprod";
    case Isa::kI8mm:
      return "i8mm";
  }
  return "unknown";
}

bool IsaSupported(Isa isa) {
  switch (isa) {
    case Isa::kReference:
      return true;
#if defined(__x86_64__)
    case Isa::kAvx2:
      return HasAvx2();
    case Isa::kVnni:
      return HasVnni();
#endif
#if defined(__aarch64__)
    case Isa::kNeon:
      return true;
    case Isa::kDotprod:
      return HasDotprod();
    case Isa::kI8mm:
      return HasI8mm();
#endif
    default:
      return false;
  }
}

const IsaLimit& SelectedIsa() {
  static const IsaLimit limit = Select();
  return limit;
}

}  // namespace edgefold
