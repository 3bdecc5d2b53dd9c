// SPDX-License-Identifier: Apache-2.0
#include "transport/numa.hpp"

#include <gtest/gtest.h>
#include <linux/mempolicy.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstring>

#include "transport/shm/ring_memory.hpp"

namespace mc::testing {
namespace {

// The policy that the kernel keeps for the pages at `address`.
int policy_of(const void* address) {
    int policy = -1;
    EXPECT_EQ(::syscall(SYS_get_mempolicy, &policy, nullptr, 0UL, address, MPOL_F_ADDR), 0);
    return policy;
}

class Numa : public ::testing::Test {
  protected:
    void SetUp() override {
        if (!numa_node_of(&here_)) GTEST_SKIP() << "this kernel says nothing about NUMA nodes";
    }
    int here_ = 0;
};

TEST_F(Numa, RingsLieWhereTheyAreAskedToLie) {
    const unsigned node = *numa_node_of(&here_);
    const auto placed = RingMemory::create(RingMemory::kSmallest, node);
    ASSERT_TRUE(placed);
    for (const Ring& ring : {(*placed)->to_send(), (*placed)->to_receive()}) {
        EXPECT_EQ(policy_of(ring.data), MPOL_PREFERRED);
        EXPECT_EQ(numa_node_of(ring.data), node);
        EXPECT_EQ(numa_node_of(ring.data + 2 * ring.capacity - 1), node);
    }
    const auto elsewhere = RingMemory::create(RingMemory::kSmallest);
    ASSERT_TRUE(elsewhere);
    EXPECT_EQ(policy_of((*elsewhere)->to_send().data), MPOL_DEFAULT);
}

// A node that does not exist costs the placement, not the ring.
TEST_F(Numa, ANodeThatDoesNotExistIsRefused) {
    void* const pages =
        ::mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    ASSERT_NE(pages, MAP_FAILED);
    EXPECT_FALSE(prefer_numa_node(pages, 4096, 1023));
    EXPECT_FALSE(prefer_numa_node(pages, 4096, 1U << 20));
    ::munmap(pages, 4096);
    EXPECT_TRUE(RingMemory::create(RingMemory::kSmallest, 1023));
}

TEST(NumaNode, OfNoMemoryIsNone) { EXPECT_FALSE(numa_node_of(nullptr)); }

}  // namespace
}  // namespace mc::testing
