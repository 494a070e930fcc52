// SPDX-License-Identifier: Apache-2.0
// One call of every kernel family, and of the layers made of them, for callgrind to count.
#pragma once

#include <functional>

namespace edgefold::instructions {

// Makes the call once uncounted, so that what happens once in a process is over, and once inside of
// edgefold_counted_call, by whose name callgrind knows what to count. Prints `name`.
void Count(const char* name, const std::function<void()>& call);

void CountProducts();  // matrix products and what decodes and arranges their operands
void CountRows();      // quantization, activations, norms and softmax of rows
void CountImages();    // what convolutions are made of
void CountLayers();    // whole linear layers, blocks and attention heads

}  // namespace edgefold::instructions
