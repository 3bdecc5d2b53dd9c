// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <optional>

namespace mc {

// The NUMA node that holds the page at `address`; none where the kernel does not say (it was built
// without NUMA, or a container forbids the question).
std::optional<unsigned> numa_node_of(const void* address);

// Asks the kernel to take memory for these pages, which nobody has touched yet, from that node
// while it has some. Whole pages only. False: the kernel refused, and decides by itself.
bool prefer_numa_node(void* pages, std::size_t bytes, unsigned node);

}  // namespace mc
