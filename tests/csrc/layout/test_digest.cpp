// SPDX-License-Identifier: Apache-2.0
#include "layout/digest.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <set>

#include "layout/reference.hpp"

namespace mc {
namespace {

std::vector<std::byte> random_bytes(reference::Random& random, std::size_t count) {
    std::vector<std::byte> bytes(count);
    for (std::byte& byte : bytes) byte = static_cast<std::byte>(random());
    return bytes;
}

std::uint64_t digest_of(std::span<const std::byte> bytes) {
    Digest digest;
    digest.add(bytes);
    return digest.value();
}

// The product's halves by long multiplication of 32-bit digits.
std::uint64_t folded_product(std::uint64_t left, std::uint64_t right) {
    const std::uint64_t low = 0xffffffff;
    const std::uint64_t a = (left & low) * (right & low);
    const std::uint64_t b = (left >> 32) * (right & low) + (a >> 32);
    const std::uint64_t c = (left & low) * (right >> 32) + (b & low);
    const std::uint64_t upper = (left >> 32) * (right >> 32) + (b >> 32) + (c >> 32);
    return ((c << 32) | (a & low)) ^ upper;
}

// The definition in the header, byte by byte.
std::uint64_t defined(std::span<const std::byte> bytes) {
    constexpr std::uint64_t kFactor = 0x9e3779b97f4a7c15;
    std::array<std::uint64_t, 8> lanes;
    for (std::size_t i = 0; i < 8; ++i) lanes[i] = kFactor * (i + 1);
    for (std::size_t word = 0; word < (bytes.size() + 63) / 64 * 8; ++word) {
        std::uint64_t value = 0;
        for (std::size_t i = 0; i < 8; ++i) {
            const std::size_t at = word * 8 + i;
            if (at < bytes.size()) value += static_cast<std::uint64_t>(bytes[at]) << (8 * i);
        }
        lanes[word % 8] = folded_product(lanes[word % 8] ^ value, kFactor);
    }
    std::uint64_t value = folded_product(kFactor ^ bytes.size(), kFactor);
    for (const std::uint64_t lane : lanes) value = folded_product(value ^ lane, kFactor);
    return value;
}

TEST(Digest, IsAsDefined) {
    reference::Random random = reference::seeded(1);
    for (const std::size_t count : {0, 1, 7, 8, 63, 64, 65, 127, 128, 1000, 4096}) {
        const auto bytes = random_bytes(random, count);
        EXPECT_EQ(digest_of(bytes), defined(bytes)) << count;
    }
}

TEST(Digest, DoesNotDependOnHowBytesAreCut) {
    reference::Random random = reference::seeded(2);
    for (int i = 0; i < 200; ++i) {
        const auto bytes = random_bytes(random, reference::pick(random, 0, 700));
        Digest cut;
        std::span<const std::byte> rest = bytes;
        while (!rest.empty()) {
            const std::size_t taken = reference::pick(
                random, 0, static_cast<std::uint32_t>(std::min<std::size_t>(rest.size(), 150)));
            cut.add(rest.first(taken));
            rest = rest.subspan(taken);
        }
        EXPECT_EQ(cut.value(), digest_of(bytes));
        EXPECT_EQ(cut.value(), digest_of(bytes)) << "asking for it changes it";
    }
}

TEST(Digest, FindsDamage) {
    reference::Random random = reference::seeded(3);
    const auto bytes = random_bytes(random, 500);
    std::set<std::uint64_t> seen{digest_of(bytes)};
    const auto expect_new = [&](std::span<const std::byte> changed) {
        EXPECT_TRUE(seen.insert(digest_of(changed)).second) << changed.size();
    };
    for (std::size_t bit = 0; bit < 8 * bytes.size(); ++bit) {
        auto changed = bytes;
        changed[bit / 8] ^= static_cast<std::byte>(1 << (bit % 8));
        expect_new(changed);
    }
    // Two bits, in successive words of one lane.
    for (int i = 0; i < 5000; ++i) {
        auto changed = bytes;
        const std::uint32_t word = 8 * reference::pick(random, 0, 5);
        changed[word * 8 + reference::pick(random, 0, 7)] ^=
            static_cast<std::byte>(1U << reference::pick(random, 0, 7));
        changed[word * 8 + 64 + reference::pick(random, 0, 7)] ^=
            static_cast<std::byte>(1U << reference::pick(random, 0, 7));
        EXPECT_NE(digest_of(changed), digest_of(bytes));
    }
    for (std::uint32_t bit = 0; bit < 64; ++bit) {  // the highest bit, and any bit of the next word
        auto changed = bytes;
        changed[7] ^= std::byte{0x80};
        changed[64 + bit / 8] ^= static_cast<std::byte>(1U << (bit % 8));
        expect_new(changed);
    }
    for (std::size_t i = 0; i + 16 <= bytes.size(); i += 8) {
        auto swapped = bytes;
        std::swap_ranges(swapped.begin() + static_cast<std::ptrdiff_t>(i),
                         swapped.begin() + static_cast<std::ptrdiff_t>(i + 8),
                         swapped.begin() + static_cast<std::ptrdiff_t>(i + 8));
        expect_new(swapped);
    }
    for (std::size_t count = 0; count < bytes.size(); ++count)
        expect_new(std::span(bytes).first(count));
    const std::vector<std::byte> zeros(200);
    for (std::size_t count = 1; count <= zeros.size(); ++count)
        expect_new(std::span(zeros).first(count));
}

TEST(Digest, FollowsTheCanonicalOrderOfACursor) {
    reference::Random random = reference::seeded(4);
    auto bytes = random_bytes(random, 1000);
    const auto address = reinterpret_cast<std::uint64_t>(bytes.data());
    std::vector<Segment> segments;
    std::vector<std::byte> expected;
    for (int i = 0; i < 200; ++i) {
        const std::uint32_t at = reference::pick(random, 0, 990);
        segments.push_back({address + at, 10});
        expected.insert(expected.end(), bytes.begin() + at, bytes.begin() + at + 10);
    }
    const auto slice = Slice::from_segments(segments);
    const Cursor cursor(slice, 13, 1900);
    EXPECT_EQ(digest(cursor), digest_of(std::span(expected).subspan(13, 1900)));
    EXPECT_EQ(cursor.remaining(), 1900U) << "the cursor itself stays where it is";
}

}  // namespace
}  // namespace mc
