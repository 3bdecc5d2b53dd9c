// SPDX-License-Identifier: Apache-2.0
#include "layout/pool.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>

namespace mc {
namespace {

using testing::HasSubstr;

constexpr auto kMax = std::numeric_limits<std::uint64_t>::max();
constexpr auto kMax32 = std::numeric_limits<std::uint32_t>::max();

// [10 pages, 2 heads, 4 tokens, 6 elements of 2 bytes]
Plane make_plane(std::uint32_t layer = 0) {
    Plane plane;
    plane.layer = layer;
    plane.dtype = "bfloat16";
    plane.element_bytes = 2;
    plane.base = 1000;
    plane.page_stride = 96;
    plane.token_stride = 12;
    plane.head_stride = 48;
    plane.element_stride = 2;
    plane.heads = 2;
    plane.elements = 6;
    return plane;
}

Pool make_pool() {
    Pool pool;
    pool.name = "kv.0";
    pool.page_size = 4;
    pool.page_count = 10;
    pool.planes = {make_plane(0), make_plane(1)};
    return pool;
}

TEST(PlaneKind, HasANameEach) {
    for (const PlaneKind kind : {PlaneKind::k, PlaneKind::v, PlaneKind::kv, PlaneKind::mla,
                                 PlaneKind::state, PlaneKind::aux}) {
        EXPECT_EQ(plane_kind(to_string(kind)), kind);
    }
    EXPECT_EQ(plane_kind("q"), std::nullopt);
    EXPECT_EQ(to_string(static_cast<PlaneKind>(99)), "unknown");
}

TEST(Pool, IsValid) {
    EXPECT_TRUE(validate(make_pool()).ok()) << validate(make_pool()).to_string();
}

TEST(Pool, KnowsTheAddressesOfAPlane) {
    const Pool pool = make_pool();
    const AddressRange range = address_range(pool, pool.planes[0]);
    EXPECT_EQ(range.begin, 1000U);
    EXPECT_EQ(range.end, 1000U + 10 * 96);
}

TEST(Pool, KnowsTheAddressesOfAPlaneWithGaps) {
    Pool pool = make_pool();
    Plane& plane = pool.planes[0];
    plane.page_stride = 1000;
    plane.element_stride = 2;
    plane.elements = 4;
    ASSERT_TRUE(validate(pool).ok());
    // The last element of the last token of the last head of the last page, and its two bytes.
    EXPECT_EQ(address_range(pool, plane).end, 1000U + 9 * 1000 + 48 + 3 * 12 + 3 * 2 + 2);
}

TEST(Pool, IgnoresTheStridesOfAxesWithOneIndex) {
    Pool pool = make_pool();
    pool.page_size = 1;
    pool.page_count = 1;
    for (Plane& plane : pool.planes) {
        plane.heads = 1;
        plane.page_stride = plane.token_stride = plane.head_stride = kMax;
    }
    EXPECT_TRUE(validate(pool).ok());
    EXPECT_EQ(address_range(pool, pool.planes[0]).end, 1012U);
}

TEST(Pool, MayHoldOneLayerInPlanesOfDifferentHeads) {
    Pool pool = make_pool();
    pool.planes[1].layer = 0;
    pool.planes[1].first_head = 2;
    EXPECT_TRUE(validate(pool).ok());
}

// Each of these is a description that must never be walked.
struct BadPool {
    const char* name;
    void (*spoil)(Pool&);
    const char* reason;
};

class Invalid : public testing::TestWithParam<BadPool> {};

TEST_P(Invalid, IsRefusedWithAReason) {
    Pool pool = make_pool();
    GetParam().spoil(pool);
    const Status status = validate(pool);
    EXPECT_EQ(status.code(), Code::invalid_argument);
    EXPECT_THAT(status.message(), HasSubstr(GetParam().reason));
}

INSTANTIATE_TEST_SUITE_P(
    Pool, Invalid,
    testing::Values(
        BadPool{"no_name", [](Pool& pool) { pool.name.clear(); }, "name is missing"},
        BadPool{"no_page_size", [](Pool& pool) { pool.page_size = 0; }, "page size is 0"},
        BadPool{"huge_page_size", [](Pool& pool) { pool.page_size = kMaxPageSize + 1; },
                "page size"},
        BadPool{"no_pages", [](Pool& pool) { pool.page_count = 0; }, "page count is 0"},
        BadPool{"too_many_pages", [](Pool& pool) { pool.page_count = 1U << 31; }, "int32"},
        BadPool{"no_planes", [](Pool& pool) { pool.planes.clear(); }, "0 planes"},
        BadPool{"too_many_planes", [](Pool& pool) { pool.planes.resize(kMaxPlanes + 1); },
                "planes"},
        BadPool{"unknown_kind", [](Pool& pool) { pool.planes[1].kind = static_cast<PlaneKind>(6); },
                "kind"},
        BadPool{"no_dtype", [](Pool& pool) { pool.planes[1].dtype.clear(); },
                "layer 1 (kv): the dtype"},
        BadPool{"no_address", [](Pool& pool) { pool.planes[1].base = 0; }, "address is zero"},
        BadPool{"no_element_bytes", [](Pool& pool) { pool.planes[1].element_bytes = 0; },
                "must not be zero"},
        BadPool{"no_heads", [](Pool& pool) { pool.planes[1].heads = 0; }, "must not be zero"},
        BadPool{"no_elements", [](Pool& pool) { pool.planes[1].elements = 0; }, "must not be zero"},
        BadPool{"odd_kv", [](Pool& pool) { pool.planes[1].elements = 5; }, "equal halves"},
        BadPool{"head_numbers", [](Pool& pool) { pool.planes[1].first_head = kMax32; },
                "head numbers"},
        BadPool{"elements_overlap", [](Pool& pool) { pool.planes[1].element_stride = 1; },
                "element stride of 1"},
        BadPool{"no_element_stride", [](Pool& pool) { pool.planes[1].element_stride = 0; },
                "element stride of 0"},
        BadPool{"tokens_overlap", [](Pool& pool) { pool.planes[1].token_stride = 11; },
                "token stride of 11"},
        BadPool{"heads_overlap", [](Pool& pool) { pool.planes[1].head_stride = 47; },
                "head stride of 47"},
        BadPool{"pages_overlap", [](Pool& pool) { pool.planes[1].page_stride = 95; },
                "page stride of 95"},
        BadPool{"broadcast_pages", [](Pool& pool) { pool.planes[1].page_stride = 0; },
                "page stride of 0"},
        BadPool{"huge_stride", [](Pool& pool) { pool.planes[1].page_stride = kMax / 9 + 1; },
                "fit 64 bits"},
        BadPool{"huge_extent", [](Pool& pool) { pool.planes[1].page_stride = kMax / 9; },
                "fit 64 bits"},
        BadPool{"end_of_memory", [](Pool& pool) { pool.planes[1].base = kMax - 959; },
                "fit 64 bits"},
        BadPool{"many_elements",
                [](Pool& pool) {
                    pool.planes[1].elements = kMax32 - 1;
                    pool.planes[1].element_bytes = kMax32;
                    pool.planes[1].element_stride = kMax32;
                },
                "stride"},
        BadPool{"same_plane_twice", [](Pool& pool) { pool.planes[1].layer = 0; },
                "two planes hold head 0"},
        BadPool{"shared_head",
                [](Pool& pool) {
                    pool.planes[1].layer = 0;
                    pool.planes[1].first_head = 1;
                },
                "two planes hold head 1 of layer 0 (kv)"}),
    [](const auto& bad) { return std::string(bad.param.name); });

TEST(Pool, ReachesTheEndOfMemory) {
    Pool pool = make_pool();
    pool.planes[1].base = kMax - 960;
    EXPECT_TRUE(validate(pool).ok());
}

}  // namespace
}  // namespace mc
