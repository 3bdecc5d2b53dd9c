// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <vector>

#include "engine/memory_table.hpp"

namespace mc {
namespace {

using Access = MemoryTable::Access;

MemoryTable::Region region(std::uint64_t address, std::uint64_t bytes, bool read = false,
                           bool write = false) {
    return {address, bytes, {}, read, write};
}

Status check(const MemoryTable& table, std::vector<Segment> segments,
             Access access = Access::local) {
    return table.check(segments, access);
}

TEST(MemoryTable, RefusesWhatIsNoMemory) {
    MemoryTable table;
    EXPECT_FALSE(table.add(region(0, 10)));
    EXPECT_FALSE(table.add(region(1000, 0)));
    EXPECT_FALSE(table.add(region(UINT64_MAX - 5, 10)));
    EXPECT_TRUE(table.add(region(UINT64_MAX - 10, 10)));
}

TEST(MemoryTable, RefusesOverlaps) {
    MemoryTable table;
    ASSERT_TRUE(table.add(region(1000, 100)));
    for (const auto& [address, bytes] : std::vector<std::pair<std::uint64_t, std::uint64_t>>{
             {1000, 100}, {1000, 1}, {1099, 1}, {950, 51}, {950, 500}, {1050, 10}}) {
        EXPECT_FALSE(table.add(region(address, bytes))) << address << " " << bytes;
    }
    EXPECT_TRUE(table.add(region(900, 100)));
    EXPECT_TRUE(table.add(region(1100, 100)));
}

TEST(MemoryTable, ForgetsWhatWasRemoved) {
    MemoryTable table;
    ASSERT_TRUE(table.add(region(1000, 100)));
    EXPECT_FALSE(table.remove(1001));
    EXPECT_TRUE(check(table, {{1000, 100}}));
    EXPECT_TRUE(table.remove(1000));
    EXPECT_FALSE(table.remove(1000));
    EXPECT_FALSE(check(table, {{1000, 1}}));
    EXPECT_TRUE(table.add(region(1050, 10)));
}

TEST(MemoryTable, KnowsTheEdges) {
    MemoryTable table;
    ASSERT_TRUE(table.add(region(1000, 100)));
    ASSERT_TRUE(table.add(region(1100, 100)));
    EXPECT_TRUE(check(table, {{1000, 1}, {1099, 1}, {1000, 100}, {1100, 100}, {1199, 1}}));
    for (const Segment& outside : std::vector<Segment>{{999, 1},
                                                       {999, 2},
                                                       {1200, 1},
                                                       {1199, 2},
                                                       {1000, UINT64_MAX},
                                                       {UINT64_MAX, 1},
                                                       {UINT64_MAX, UINT64_MAX},
                                                       {1, UINT64_MAX}}) {
        EXPECT_FALSE(check(table, {outside})) << outside.address << " " << outside.length;
        EXPECT_FALSE(check(table, {{1000, 1}, outside})) << "behind one that is inside";
    }
    EXPECT_FALSE(check(table, {{1050, 100}})) << "over the seam of two regions";
}

TEST(MemoryTable, AllowsPeersOnlyWhatWasGranted) {
    MemoryTable table;
    ASSERT_TRUE(table.add(region(1000, 100)));
    ASSERT_TRUE(table.add(region(2000, 100, true, false)));
    ASSERT_TRUE(table.add(region(3000, 100, false, true)));
    ASSERT_TRUE(table.add(region(4000, 100, true, true)));
    const auto allowed = [&](std::uint64_t address) {
        return std::vector<bool>{check(table, {{address, 1}}, Access::local).ok(),
                                 check(table, {{address, 1}}, Access::remote_read).ok(),
                                 check(table, {{address, 1}}, Access::remote_write).ok()};
    };
    EXPECT_EQ(allowed(1000), (std::vector<bool>{true, false, false}));
    EXPECT_EQ(allowed(2000), (std::vector<bool>{true, true, false}));
    EXPECT_EQ(allowed(3000), (std::vector<bool>{true, false, true}));
    EXPECT_EQ(allowed(4000), (std::vector<bool>{true, true, true}));
    EXPECT_FALSE(check(table, {{4000, 1}, {2000, 1}}, Access::remote_write));
    EXPECT_NE(check(table, {{1000, 1}}, Access::remote_read).message().find("remote='r'"),
              std::string::npos);
}

TEST(MemoryTable, HasNothingAgainstNothing) {
    EXPECT_TRUE(check(MemoryTable(), {}, Access::remote_write));
}

}  // namespace
}  // namespace mc
