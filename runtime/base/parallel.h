// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>

namespace edgefold {

// The caller's way to run task(user, i) for i = 0..total - 1, each once, in any order and thread.
// Returns when all are done. Tasks must not throw.
struct Parallel {
  void (*run)(void* context, void (*task)(void* user, size_t index), size_t total, void* user);
  void* context;

  // Runs a function object taking the index.
  template <typename Task>
  void For(size_t total, const Task& task) const {
    run(
        context, [](void* user, size_t index) { (*static_cast<const Task*>(user))(index); }, total,
        const_cast<Task*>(&task));
  }
};

}  // namespace edgefold
