// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <limits>

#include "layout/reference.hpp"

namespace mc {
namespace {

using reference::OwnedPool;
using reference::Random;

reference::PoolShape three_layers() {
    reference::PoolShape shape;
    shape.layers = {0, 1, 2};
    shape.heads = 2;
    return shape;
}

// A peer's match is hostile until shown otherwise.
class HostileMatch : public testing::Test {
  protected:
    void SetUp() override {
        const std::array pools{&owned_.pool};
        match_ = (*match_pools(pools, owned_.pool))[0];
        ASSERT_TRUE(validate(match_, owned_.pool, Side::source).ok());
    }
    void expect_refused() {
        EXPECT_FALSE(validate(match_, owned_.pool, Side::source).ok());
        EXPECT_FALSE(Walk::make(owned_.pool, match_, Side::source).ok());
    }

    Random random_ = reference::seeded(1);
    OwnedPool owned_ = reference::make_pool(random_, three_layers());
    Match match_;
};

constexpr std::uint32_t kHuge = std::numeric_limits<std::uint32_t>::max();

TEST_F(HostileMatch, PlaneOutOfRange) {
    match_.pairs[1].source_plane = 3;
    expect_refused();
}
TEST_F(HostileMatch, HeadsOutOfRange) {
    match_.pairs[1].heads = 3;
    expect_refused();
}
TEST_F(HostileMatch, HeadsThatWrapAround) {
    match_.pairs[1].source_head = kHuge;
    expect_refused();
}
TEST_F(HostileMatch, ElementsOutOfRange) {
    match_.pairs[1].source_element = 1;
    expect_refused();
}
TEST_F(HostileMatch, NoElements) {
    match_.pairs[1].elements = 0;
    expect_refused();
}
TEST_F(HostileMatch, NoHeads) {
    match_.pairs[1].heads = 0;
    expect_refused();
}
TEST_F(HostileMatch, WrongByteCount) {
    ++match_.token_bytes;
    expect_refused();
}
TEST_F(HostileMatch, TooManyPairs) {
    match_.pairs.resize(2 * kMaxPlanes + 1, match_.pairs[0]);
    expect_refused();
}
TEST_F(HostileMatch, BlocksThatCrossPages) {
    match_.order.block_tokens = 3;
    expect_refused();
}
TEST_F(HostileMatch, AxisTwice) {
    match_.order.axes = {Axis::layer, Axis::block, Axis::token, Axis::token};
    expect_refused();
}
TEST_F(HostileMatch, TokenOutsideBlock) {
    match_.order.axes = {Axis::layer, Axis::token, Axis::head, Axis::block};
    expect_refused();
}
TEST_F(HostileMatch, BlocksOfNothing) {
    match_.order.block_tokens = 0;
    expect_refused();
}
TEST_F(HostileMatch, UnequalPairsWithLayersInside) {
    match_.order.axes = {Axis::block, Axis::layer, Axis::head, Axis::token};
    EXPECT_TRUE(validate(match_, owned_.pool, Side::source).ok());
    match_.pairs[1].heads = 1;
    match_.token_bytes -=
        owned_.pool.planes[0].elements * std::uint64_t{owned_.pool.planes[0].element_bytes};
    expect_refused();
    match_.order.axes = {Axis::layer, Axis::block, Axis::head, Axis::token};
    EXPECT_TRUE(validate(match_, owned_.pool, Side::source).ok());
}

}  // namespace
}  // namespace mc
