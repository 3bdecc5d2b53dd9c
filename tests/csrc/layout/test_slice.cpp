// SPDX-License-Identifier: Apache-2.0
#include "layout/slice.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "layout/reference.hpp"

namespace mc {
namespace {

using testing::HasSubstr;

// Where the axes of a pool lie: layer, block, head, token from outermost to innermost.
Pool make_pool(const std::string& nesting, std::uint32_t page_size, std::uint32_t heads = 4,
               std::uint32_t page_count = 64, std::uint32_t layers = 3) {
    Pool pool;
    pool.name = nesting;
    pool.page_size = page_size;
    pool.page_count = page_count;
    Plane plane;
    plane.dtype = "bfloat16";
    plane.element_bytes = 2;
    plane.element_stride = 2;
    plane.elements = 8;
    plane.heads = heads;
    std::uint64_t layer_stride = 0;
    std::uint64_t unit = std::uint64_t{plane.elements} * plane.element_bytes;
    for (std::size_t i = nesting.size(); i-- > 0;) {
        switch (nesting[i]) {
            case 'L': layer_stride = unit, unit *= layers; break;
            case 'B': plane.page_stride = unit, unit *= page_count; break;
            case 'H': plane.head_stride = unit, unit *= heads; break;
            default: plane.token_stride = unit, unit *= page_size; break;
        }
    }
    for (std::uint32_t layer = 0; layer < layers; ++layer) {
        plane.layer = layer;
        plane.base = 4096 + layer * layer_stride;
        pool.planes.push_back(plane);
    }
    return pool;
}

Match match_of(const Pool& source, const Pool& destination) {
    const std::array pools{&source};
    auto matches = match_pools(pools, destination);
    EXPECT_TRUE(matches.ok()) << matches.status().to_string();
    return (*matches)[0];
}

std::string axes_of(const Match& match) { return to_string(match.order).substr(0, 4); }

constexpr std::uint64_t kHead = 16;  // bytes of one token in one head

// For each pair of layouts the order that serves both best, and how far memory is contiguous then.
struct Choice {
    const char* source;
    std::uint32_t source_page;
    const char* destination;
    std::uint32_t destination_page;
    const char* axes;
    std::uint32_t block_tokens;
    std::uint64_t source_bytes;  // of a segment, when pages are scattered
    std::uint64_t destination_bytes;
};

class ChosenOrder : public testing::TestWithParam<Choice> {};

TEST_P(ChosenOrder, MergesAsMuchAsBothSidesAllow) {
    const Choice& choice = GetParam();
    const Pool source = make_pool(choice.source, choice.source_page);
    const Pool destination = make_pool(choice.destination, choice.destination_page);
    const Match match = match_of(source, destination);
    EXPECT_EQ(axes_of(match), choice.axes);
    EXPECT_EQ(match.order.block_tokens, choice.block_tokens);
    EXPECT_EQ((*Walk::make(source, match, Side::source))->scattered_segment_bytes(),
              choice.source_bytes);
    EXPECT_EQ((*Walk::make(destination, match, Side::destination))->scattered_segment_bytes(),
              choice.destination_bytes);
}

constexpr std::uint64_t kPage = 16 * 4 * kHead;  // of one layer: 16 tokens, 4 heads
INSTANTIATE_TEST_SUITE_P(
    Layouts, ChosenOrder,
    testing::Values(Choice{"LBHN", 16, "LBHN", 16, "LBHN", 16, kPage, kPage},
                    Choice{"LBNH", 16, "LBNH", 16, "LBNH", 1, kPage, kPage},
                    Choice{"LHBN", 16, "LHBN", 16, "LHBN", 1, 16 * kHead, 16 * kHead},
                    Choice{"BLHN", 16, "BLHN", 16, "BLHN", 16, 3 * kPage, 3 * kPage},
                    Choice{"BLNH", 16, "BLNH", 16, "BLNH", 16, 3 * kPage, 3 * kPage},
                    Choice{"BHLN", 16, "BHLN", 16, "BHLN", 16, 3 * kPage, 3 * kPage},
                    // A row of all layers against layers apart: a page of a layer at a time.
                    Choice{"BLHN", 16, "LBHN", 16, "BLHN", 16, 3 * kPage, kPage},
                    Choice{"BLNH", 16, "LBNH", 16, "BLNH", 16, 3 * kPage, kPage},
                    // Heads in a page against heads in a larger one: the tokens of the smaller.
                    // When neither page holds the other, head after head needs no common block.
                    Choice{"LBHN", 16, "LBHN", 64, "LBHN", 16, kPage, 16 * kHead},
                    Choice{"LBHN", 64, "LBHN", 16, "LBHN", 16, 16 * kHead, kPage},
                    Choice{"LBHN", 48, "LBHN", 32, "LHBN", 1, 48 * kHead, 32 * kHead},
                    // Tokens outside heads do not care about page sizes.
                    Choice{"LBNH", 16, "LBNH", 64, "LBNH", 1, kPage, 4 * kPage},
                    Choice{"LBNH", 1, "LBNH", 16, "LBNH", 1, 4 * kHead, kPage}));

TEST(ChosenOrder, OfHeadsAgainstTokensMovesSingleHeads) {
    for (const auto& [from, to] : {std::pair("LBNH", "LBHN"), std::pair("LBHN", "LBNH")}) {
        const Pool source = make_pool(from, 16);
        const Pool destination = make_pool(to, 16);
        const Match match = match_of(source, destination);
        const auto read = *Walk::make(source, match, Side::source);
        const auto written = *Walk::make(destination, match, Side::destination);
        EXPECT_EQ(std::min(read->scattered_segment_bytes(), written->scattered_segment_bytes()),
                  kHead);
        EXPECT_EQ(std::max(read->scattered_segment_bytes(), written->scattered_segment_bytes()),
                  kPage)
            << "one side should still be walked page by page";
    }
}

TEST(ChosenOrder, PrefersWhatMergesOverConsecutivePages) {
    const Pool pool = make_pool("LBHN", 16);
    const auto walk = *Walk::make(pool, match_of(pool, pool), Side::source);
    EXPECT_EQ(walk->segment_bytes(1), kPage);
    EXPECT_EQ(walk->segment_bytes(8), 8 * kPage);
    EXPECT_EQ(walk->segment_bytes(1000), 64 * kPage) << "there are no more pages";
}

TEST(ChosenOrder, KeepsLayersOutermostWhereTheirPlanesDiffer) {
    Pool pool = make_pool("BLHN", 16);
    for (Plane& plane : pool.planes) {
        if (plane.layer == 1) plane.elements = 4;
    }
    EXPECT_EQ(axes_of(match_of(pool, pool))[0], 'L');
}

// The loops that are left tell how much work a slice is.
TEST(Walk, MergesLoopsWhereMemoryIsContiguous) {
    const auto nest = [](const char* nesting, Order order, std::uint32_t heads_taken = 4,
                         std::uint32_t elements_taken = 8) {
        const Pool pool = make_pool(nesting, 16);
        Match match = canonical_match(pool);
        match.pairs.clear();
        match.token_bytes = 0;
        for (std::uint32_t i = 0; i < pool.planes.size(); ++i) {
            match.pairs.push_back({.source_plane = i,
                                   .destination_plane = i,
                                   .heads = heads_taken,
                                   .elements = elements_taken});
            match.token_bytes += heads_taken * elements_taken * 2;
        }
        match.order = order;
        const auto walk = *Walk::make(pool, match, Side::source);
        return walk->nest(walk->shapes()[0], 16 / walk->block_tokens(), walk->block_tokens());
    };
    using enum Axis;
    const Order head_major{{layer, block, head, token}, 16};
    const Order token_major{{layer, block, token, head}, 1};
    EXPECT_EQ(nest("LBHN", head_major).loops.size, 0U) << "a run of pages is one piece";
    EXPECT_EQ(nest("LBNH", token_major).loops.size, 0U);
    EXPECT_EQ(nest("LBNH", token_major).piece_bytes, kPage);
    EXPECT_EQ(nest("BLHN", head_major).loops.size, 1U)
        << "one piece a page, with other layers between";
    EXPECT_EQ(nest("BLHN", head_major).piece_bytes, kPage);
    EXPECT_EQ(nest("LBNH", token_major, 2).loops.size, 1U)
        << "tokens of all pages of a run in one loop";
    EXPECT_EQ(nest("LBNH", token_major, 2).loops.loops[0].count, 16U);
    EXPECT_EQ(nest("LBHN", token_major).loops.size, 3U) << "pages, tokens, heads";
    EXPECT_EQ(nest("LBHN", token_major).pieces(2), 2U * 16 * 4);
    EXPECT_EQ(nest("BLHN", {{block, layer, head, token}, 16}).loops.size, 0U);
    EXPECT_EQ(nest("BHLN", {{block, head, layer, token}, 16}).piece_bytes, 3 * kPage);
    // Half of the elements: no two pieces touch, but all are equally far apart.
    EXPECT_EQ(nest("BHLN", {{block, head, layer, token}, 16}, 4, 4).loops.size, 1U);
    EXPECT_EQ(nest("BHLN", {{block, head, layer, token}, 16}, 4, 4).loops.loops[0].count,
              4U * 3 * 16);
}

TEST(Slice, NeedsThePoolsPageTable) {
    const Pool pool = make_pool("LBHN", 16);
    const auto walk = *Walk::make(pool, match_of(pool, pool), Side::source);
    EXPECT_THAT(
        Slice::make(walk, PageTable(8, 64, std::nullopt), {0, 8}).status().message(),
        HasSubstr("64 pages of 8 tokens does not belong to a pool with 64 pages of 16 tokens"));
    EXPECT_FALSE(Slice::make(walk, PageTable(16, 65, std::nullopt), {0, 8}).ok())
        << "its page ids were checked against another bound";
}

TEST(Slice, NeedsAPageForEachToken) {
    const Pool pool = make_pool("LBHN", 16);
    const auto walk = *Walk::make(pool, match_of(pool, pool), Side::source);
    PageTable table(16, 64, 0);
    ASSERT_TRUE(table.append(std::array{1, 0, 2}).ok());
    EXPECT_TRUE(Slice::make(walk, table, {3, 16}).ok());
    EXPECT_FALSE(Slice::make(walk, table, {3, 17}).ok());
    EXPECT_FALSE(Slice::make(walk, table, {33, 49}).ok());
}

TEST(Slice, OfNoTokensIsEmpty) {
    const Pool pool = make_pool("LBHN", 16);
    const auto walk = *Walk::make(pool, match_of(pool, pool), Side::source);
    const auto slice = Slice::make(walk, PageTable(16, 64, std::nullopt), {5, 5});
    ASSERT_TRUE(slice.ok());
    EXPECT_EQ((*slice)->bytes(), 0U);
    std::array<Segment, 1> segments;
    EXPECT_EQ(Cursor(*slice, 0, 0).next(segments), 0U);
}

TEST(Slice, RefusesMoreBytesThan64BitsCount) {
    Pool pool = make_pool("LBHN", 1, 1, 2, 1);
    Plane& plane = pool.planes[0];
    plane.elements = 0x80000000U;
    plane.element_bytes = 0x10000000U;
    plane.element_stride = 0x10000000U;
    plane.page_stride = std::uint64_t{plane.elements} * plane.element_bytes;
    const auto walk = Walk::make(pool, match_of(pool, pool), Side::source);
    ASSERT_TRUE(walk.ok()) << walk.status().to_string();
    PageTable table(1, 2, std::nullopt);
    ASSERT_TRUE(table.append(std::vector<std::int32_t>(32, 1)).ok());
    EXPECT_TRUE(Slice::make(*walk, table, {0, 31}).ok());
    EXPECT_THAT(Slice::make(*walk, table, {0, 32}).status().message(),
                HasSubstr("does not fit 64 bits"));
}

TEST(Slice, EstimatesItsSegments) {
    const Pool pool = make_pool("LBHN", 16);
    const auto walk = *Walk::make(pool, match_of(pool, pool), Side::source);
    PageTable table(16, 64, std::nullopt);
    ASSERT_TRUE(table.append(std::array{1, 2, 3, 9, 12, 13}).ok());
    EXPECT_EQ((*Slice::make(walk, table, {0, 96}))->estimated_segments(), 3U * 3);
    // 12 tokens of 4 heads in the first page, then the same three runs less that page.
    EXPECT_EQ((*Slice::make(walk, table, {4, 96}))->estimated_segments(), 3U * (4 + 3));
}

}  // namespace
}  // namespace mc
