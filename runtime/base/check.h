// SPDX-License-Identifier: Apache-2.0
// EF_ASSUME states a duty of the caller, EF_ASSERT a belief of ours. Both vanish with NDEBUG.
#pragma once

#if defined(NDEBUG)
#define EF_ASSUME(condition) ((void)sizeof(condition))
#define EF_ASSERT(condition) ((void)sizeof(condition))
#else
#include <cassert>
#define EF_ASSUME(condition) assert(condition)
#define EF_ASSERT(condition) assert(condition)
#endif
