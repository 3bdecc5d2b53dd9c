// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <algorithm>
#include <limits>

#include "layout/reference.hpp"

// Pools and matches are received from peers. Whatever they say: either validate() refuses it, or no
// address that follows from it lies outside the planes it describes.
namespace mc {
namespace {

using reference::pick;
using reference::Random;

// Small, or a power of two and its neighbours, or as large as can be.
std::uint64_t extreme(Random& random, std::uint64_t most) {
    const std::uint64_t power = std::uint64_t{1} << pick(random, 0, 63);
    switch (pick(random, 0, 5)) {
        case 0: return std::min<std::uint64_t>(most, power + pick(random, 0, 2) - 1);
        case 1: return most - pick(random, 0, 2);
        default: return std::min<std::uint64_t>(most, pick(random, 0, 9));
    }
}
std::uint32_t extreme32(Random& random) {
    return static_cast<std::uint32_t>(extreme(random, std::numeric_limits<std::uint32_t>::max()));
}
std::uint64_t extreme64(Random& random) {
    return extreme(random, std::numeric_limits<std::uint64_t>::max());
}

// Starts from a sound value and spoils a few fields.
Pool hostile_pool(Random& random) {
    reference::PoolShape shape;
    shape.layers = {0, 1, 2};
    shape.heads = pick(random, 1, 3);
    Pool pool = reference::make_pool(random, shape).pool;  // its memory is gone; nothing reads it
    for (std::uint32_t spoiled = pick(random, 0, 3); spoiled > 0; --spoiled) {
        Plane& plane = pool.planes[pick(random, 0, 2)];
        switch (pick(random, 0, 10)) {
            case 0: pool.page_size = extreme32(random); break;
            case 1: pool.page_count = extreme32(random); break;
            case 2: plane.base = extreme64(random); break;
            case 3: plane.page_stride = extreme64(random); break;
            case 4: plane.token_stride = extreme64(random); break;
            case 5: plane.head_stride = extreme64(random); break;
            case 6: plane.element_stride = extreme64(random); break;
            case 7: plane.heads = extreme32(random); break;
            case 8: plane.elements = extreme32(random); break;
            case 9: plane.element_bytes = extreme32(random); break;
            default: plane.first_head = extreme32(random); break;
        }
    }
    return pool;
}

Match hostile_match(Random& random, const Pool& pool) {
    Match match = canonical_match(pool);
    for (Axis& axis : match.order.axes) {
        if (pick(random, 0, 9) == 0) axis = static_cast<Axis>(pick(random, 0, 4));
    }
    if (pick(random, 0, 1) == 0) {
        match.order.axes = {Axis::block, Axis::layer, Axis::head, Axis::token};
        match.order.block_tokens = pool.page_size;
    }
    for (std::uint32_t spoiled = pick(random, 0, 2); spoiled > 0; --spoiled) {
        PlanePair& pair =
            match.pairs[pick(random, 0, static_cast<std::uint32_t>(match.pairs.size()) - 1)];
        switch (pick(random, 0, 6)) {
            case 0: pair.source_plane = extreme32(random); break;
            case 1: pair.source_head = extreme32(random); break;
            case 2: pair.source_element = extreme32(random); break;
            case 3: pair.heads = extreme32(random); break;
            case 4: pair.elements = extreme32(random); break;
            case 5: match.order.block_tokens = extreme32(random); break;
            default: std::swap(match.pairs.front(), match.pairs.back()); break;
        }
    }
    // The byte count is what a peer gets right first.
    match.token_bytes = 0;
    for (const PlanePair& pair : match.pairs) {
        if (pair.source_plane >= pool.planes.size()) continue;
        match.token_bytes += std::uint64_t{pair.heads} * pair.elements *
                             pool.planes[pair.source_plane].element_bytes;
    }
    return match;
}

bool inside(const Pool& pool, const Segment& segment) {
    if (segment.length > std::numeric_limits<std::uint64_t>::max() - segment.address) return false;
    // A merged segment may run through several planes; each of its ends lies in one.
    const auto in_a_plane = [&](std::uint64_t address) {
        return std::any_of(pool.planes.begin(), pool.planes.end(), [&](const Plane& plane) {
            const AddressRange range = address_range(pool, plane);
            return address >= range.begin && address < range.end;
        });
    };
    return in_a_plane(segment.address) && in_a_plane(segment.address + segment.length - 1);
}

TEST(Hostile, DescriptionsNeverLeadOutsideTheirPlanes) {
    int walked = 0, refused = 0;
    for (std::uint64_t seed = 0; seed < 20000; ++seed) {
        SCOPED_TRACE("seed " + std::to_string(seed));
        Random random(seed);
        const Pool pool = hostile_pool(random);
        const Match match = hostile_match(random, pool);
        const auto walk = Walk::make(pool, match, Side::source);
        if (!walk) {
            ++refused;
            continue;
        }
        PageTable table(pool.page_size, pool.page_count, std::nullopt);
        const auto last = static_cast<std::int32_t>(pool.page_count - 1);
        if (!table.append(std::array{last, 0, last / 2, std::min(last, last / 2 + 1)})) continue;
        const TokenRange all = table.tokens();
        const TokenRange tokens{pick(random, 0, all.end - 1), all.end};
        const auto slice = Slice::make(*walk, table, tokens);
        if (!slice) continue;
        ++walked;
        EXPECT_GT((*walk)->scattered_segment_bytes(), 0U);
        const std::uint64_t bytes = (*slice)->bytes();
        for (int i = 0; i < 4; ++i) {
            std::uint64_t offset = i == 0 ? 0 : random() % bytes;
            if (i == 3) offset = bytes - 1;
            Cursor cursor(*slice, offset, bytes - offset);
            std::array<Segment, 50> segments;
            const std::size_t count = cursor.next(segments);
            ASSERT_GT(count, 0U);
            for (const Segment& segment : std::span(segments).first(count)) {
                ASSERT_TRUE(inside(pool, segment)) << segment.address << " " << segment.length;
            }
        }
    }
    // Both must happen often, else the test shows nothing.
    EXPECT_GT(walked, 3000);
    EXPECT_GT(refused, 3000);
}

TEST(Hostile, PoolsAreMatchedOrRefused) {
    int matched = 0;
    for (std::uint64_t seed = 0; seed < 6000; ++seed) {
        SCOPED_TRACE("seed " + std::to_string(seed));
        Random random(seed);
        const Pool source = hostile_pool(random);
        const Pool destination = hostile_pool(random);
        const std::array pools{&source};
        const auto matches = match_pools(pools, destination);
        if (!matches) continue;
        ++matched;
        if (matches->front().pairs.empty()) continue;
        EXPECT_TRUE(Walk::make(source, matches->front(), Side::source).ok());
        EXPECT_TRUE(Walk::make(destination, matches->front(), Side::destination).ok());
    }
    EXPECT_GT(matched, 300);
}

}  // namespace
}  // namespace mc
