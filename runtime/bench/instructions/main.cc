// SPDX-License-Identifier: Apache-2.0
// Counted under callgrind by runtime/bench/count_instructions.py: the names of the calls, in order.
#include <cstdio>

#include "base/arch.h"
#include "bench/instructions/cases.h"

// Neither inlined nor left by a jump: callgrind collects from its entry to its return.
extern "C" __attribute__((noinline)) void edgefold_counted_call(const std::function<void()>& call) {
  call();
  asm volatile("" ::: "memory");
}

namespace edgefold::instructions {

void Count(const char* name, const std::function<void()>& call) {
  call();
  edgefold_counted_call(call);
  std::printf("%s\n", name);
}

}  // namespace edgefold::instructions

int main() {
  std::printf("%s, compiler %s\n", edgefold::IsaName(edgefold::SelectedIsa().isa), __VERSION__);
  edgefold::instructions::CountProducts();
  edgefold::instructions::CountRows();
  edgefold::instructions::CountImages();
  edgefold::instructions::CountLayers();
  return 0;
}
