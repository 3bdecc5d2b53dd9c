// SPDX-License-Identifier: Apache-2.0
#include "transport/numa.hpp"

#include <linux/mempolicy.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <climits>

namespace mc {

namespace {

constexpr unsigned kNodes = 1024;  // the kernel's own limit
constexpr unsigned kWordBits = CHAR_BIT * sizeof(unsigned long);

}  // namespace

std::optional<unsigned> numa_node_of(const void* address) {
    int node = -1;
    const long failed =
        ::syscall(SYS_get_mempolicy, &node, nullptr, 0UL, address, MPOL_F_NODE | MPOL_F_ADDR);
    if (failed != 0 || node < 0) return std::nullopt;
    return static_cast<unsigned>(node);
}

bool prefer_numa_node(void* pages, std::size_t bytes, unsigned node) {
    if (node >= kNodes) return false;
    std::array<unsigned long, kNodes / kWordBits> nodes{};
    nodes[node / kWordBits] = 1UL << (node % kWordBits);
    // The kernel takes one bit less than it is told of.
    return ::syscall(SYS_mbind, pages, bytes, MPOL_PREFERRED, nodes.data(), kNodes + 1UL, 0U) == 0;
}

}  // namespace mc
