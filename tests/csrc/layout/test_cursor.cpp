// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <algorithm>

#include "layout/reference.hpp"

namespace mc {

namespace {

using namespace reference;

struct Case {
    OwnedPool owned;
    Match match;
    std::vector<std::int32_t> pages;
    std::uint32_t first_page = 0;
    TokenRange tokens;
};

std::uint32_t random_divisor(Random& random, std::uint32_t of) {
    std::vector<std::uint32_t> divisors;
    for (std::uint32_t i = 1; i <= of; ++i) {
        if (of % i == 0) divisors.push_back(i);
    }
    return divisors[pick(random, 0, static_cast<std::uint32_t>(divisors.size()) - 1)];
}

// Any order, any pairs that the order permits, any token range.
Case make_case(Random& random) {
    Case made;
    PoolShape shape;
    const std::uint32_t layers = pick(random, 1, 4);
    shape.layers.clear();
    for (std::uint32_t i = 0; i < layers; ++i) shape.layers.push_back(i);
    if (pick(random, 0, 1) == 0) shape.kinds = {PlaneKind::k, PlaneKind::v};
    shape.heads = pick(random, 1, 4);
    shape.elements = pick(random, 1, 3);
    shape.element_bytes = pick(random, 1, 2);
    shape.page_size = pick(random, 1, 6);
    shape.page_count = pick(random, 1, 12);
    made.owned = make_pool(random, shape);
    const Pool& pool = made.owned.pool;

    Order& order = made.match.order;
    do {
        std::shuffle(order.axes.begin(), order.axes.end(), random);
    } while (std::find(order.axes.begin(), order.axes.end(), Axis::token) <
             std::find(order.axes.begin(), order.axes.end(), Axis::block));
    order.block_tokens = random_divisor(random, shape.page_size);
    const bool alike = order.axes[0] != Axis::layer;
    const std::uint32_t heads = pick(random, 1, shape.heads);
    const std::uint32_t elements = pick(random, 1, pool.planes[0].elements);
    for (std::uint32_t i = 0; i < pool.planes.size(); ++i) {
        if (pick(random, 0, 5) == 0 && !made.match.pairs.empty()) continue;
        PlanePair pair;
        pair.heads = alike ? heads : pick(random, 1, shape.heads);
        pair.elements = alike ? elements : pick(random, 1, pool.planes[0].elements);
        pair.source_plane = pair.destination_plane = i;
        pair.source_head = pair.destination_head = pick(random, 0, shape.heads - pair.heads);
        pair.source_element = pair.destination_element =
            pick(random, 0, pool.planes[0].elements - pair.elements);
        made.match.pairs.push_back(pair);
        made.match.token_bytes += pair.heads * pair.elements * shape.element_bytes;
    }
    if (pick(random, 0, 3) == 0)
        std::shuffle(made.match.pairs.begin(), made.match.pairs.end(), random);

    made.pages = random_pages(random, pick(random, 1, shape.page_count), shape.page_count);
    made.first_page = pick(random, 0, 3);
    const std::uint32_t first = made.first_page * shape.page_size;
    const auto count = static_cast<std::uint32_t>(made.pages.size()) * shape.page_size;
    made.tokens.first = first + pick(random, 0, count - 1);
    made.tokens.end = pick(random, made.tokens.first + 1, first + count);
    return made;
}

std::shared_ptr<const Slice> slice_of(const Case& made, Side side) {
    const Pool& pool = made.owned.pool;
    auto walk = Walk::make(pool, made.match, side);
    EXPECT_TRUE(walk.ok()) << walk.status().to_string();
    PageTable table(pool.page_size, pool.page_count, pool.null_page,
                    made.first_page * pool.page_size);
    EXPECT_TRUE(table.append(made.pages).ok());
    auto slice = Slice::make(*walk, table, made.tokens);
    EXPECT_TRUE(slice.ok()) << slice.status().to_string();
    return *slice;
}

TEST(Cursor, YieldsExactlyTheMaximallyMergedCanonicalBytes) {
    for (std::uint64_t seed = 0; seed < 4000; ++seed) {
        SCOPED_TRACE("seed " + std::to_string(seed));
        Random random(seed);
        const Case made = make_case(random);
        const Side side = pick(random, 0, 1) == 0 ? Side::source : Side::destination;
        const auto expected =
            addresses(made.owned.pool, made.match, side, made.pages, made.first_page, made.tokens);
        const auto slice = slice_of(made, side);
        ASSERT_EQ(slice->bytes(), expected.size());
        ASSERT_EQ(drain(random, Cursor(slice, 0, slice->bytes())), merge(expected))
            << to_string(made.match.order);
    }
}

TEST(Cursor, StartsAndEndsAnywhere) {
    for (std::uint64_t seed = 0; seed < 1500; ++seed) {
        SCOPED_TRACE("seed " + std::to_string(seed));
        Random random(seed);
        const Case made = make_case(random);
        const auto expected = addresses(made.owned.pool, made.match, Side::source, made.pages,
                                        made.first_page, made.tokens);
        const auto slice = slice_of(made, Side::source);
        const auto bytes = static_cast<std::uint32_t>(expected.size());
        for (int i = 0; i < 8; ++i) {
            const std::uint32_t offset = pick(random, 0, bytes);
            const std::uint32_t length = pick(random, 0, bytes - offset);
            Cursor cursor(slice, offset, length);
            ASSERT_EQ(cursor.remaining(), length);
            ASSERT_EQ(drain(random, cursor), merge(std::span(expected).subspan(offset, length)))
                << offset << " " << length << " " << to_string(made.match.order);
        }
    }
}

TEST(Cursor, CopyGoesOnFromTheSamePlace) {
    Random random = seeded(7);
    for (int i = 0; i < 200; ++i) {
        const Case made = make_case(random);
        const auto slice = slice_of(made, Side::source);
        Cursor cursor(slice, 0, slice->bytes());
        std::array<Segment, 3> start;
        (void)cursor.next(start);
        const Cursor copy = cursor;
        EXPECT_EQ(copy.remaining(), cursor.remaining());
        EXPECT_EQ(drain(random, copy), drain(random, cursor));
    }
}

TEST(Cursor, CutsOffWhatLiesBehindTheSlice) {
    const auto slice = Slice::from_segments({{1000, 10}});
    EXPECT_EQ(Cursor(slice, 4, 100).remaining(), 6U);
    EXPECT_EQ(Cursor(slice, 10, 1).remaining(), 0U);
    EXPECT_EQ(Cursor(slice, UINT64_MAX, UINT64_MAX).remaining(), 0U);
    std::array<Segment, 2> out;
    EXPECT_EQ(Cursor(slice, UINT64_MAX, 1).next(out), 0U);
}

TEST(Cursor, WalksListsMergingNeighbours) {
    const std::vector<Segment> list{{100, 5}, {105, 0}, {105, 5}, {50, 2},
                                    {52, 1},  {200, 9}, {52, 1}};
    const auto slice = Slice::from_segments(list);
    EXPECT_EQ(slice->bytes(), 23U);
    std::vector<std::uint64_t> expected;
    for (const Segment& segment : list) {
        for (std::uint64_t i = 0; i < segment.length; ++i) expected.push_back(segment.address + i);
    }
    Random random = seeded(1);
    for (std::size_t offset = 0; offset <= expected.size(); ++offset) {
        for (std::size_t length = 0; offset + length <= expected.size(); ++length) {
            EXPECT_EQ(drain(random, Cursor(slice, offset, length), 3),
                      merge(std::span(expected).subspan(offset, length)));
        }
    }
}

TEST(Walk, PredictsTheMeanSegmentOfScatteredPages) {
    for (std::uint64_t seed = 0; seed < 300; ++seed) {
        SCOPED_TRACE("seed " + std::to_string(seed));
        Random random(seed);
        Case made = make_case(random);
        const Pool& pool = made.owned.pool;
        if (pool.page_count < 4) continue;
        made.pages.clear();
        for (std::uint32_t page = 0; page < pool.page_count; page += 2) {
            made.pages.push_back(static_cast<std::int32_t>(page));
        }
        made.tokens = {
            made.first_page * pool.page_size,
            (made.first_page + static_cast<std::uint32_t>(made.pages.size())) * pool.page_size};
        const auto slice = slice_of(made, Side::source);
        const auto segments = drain(random, Cursor(slice, 0, slice->bytes())).size();
        const std::uint64_t predicted = slice->walk()->scattered_segment_bytes();
        // Planes that touch by chance make segments longer, never shorter.
        EXPECT_LE(predicted, slice->bytes() / segments);
        EXPECT_GE(slice->estimated_segments(), segments);
    }
}

TEST(Segments, AreCheckedForOverflow) {
    EXPECT_TRUE(validate(std::array{Segment{UINT64_MAX, 0}, Segment{0, UINT64_MAX}}).ok());
    EXPECT_FALSE(validate(std::array{Segment{UINT64_MAX, 1}}).ok());
    EXPECT_FALSE(validate(std::array{Segment{0, UINT64_MAX}, Segment{0, 1}}).ok());
}

}  // namespace
}  // namespace mc
