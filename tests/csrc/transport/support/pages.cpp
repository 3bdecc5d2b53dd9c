// SPDX-License-Identifier: Apache-2.0
#include "transport/support/pages.hpp"

#include <algorithm>
#include <cstring>
#include <numeric>
#include <random>

namespace mc::testing {
namespace {

constexpr std::uint8_t kEmpty = 0xee;
constexpr std::uint64_t kMargin = 4096;  // bytes around all blocks

// Canonical bytes [0, bytes) of a part; made in words, because sanitizers make single bytes slow.
std::vector<std::uint8_t> content(std::uint32_t seed, std::uint64_t bytes) {
    std::vector<std::uint8_t> result((bytes + 7) / 8 * 8);
    std::mt19937_64 words(seed);
    for (std::size_t at = 0; at < result.size(); at += 8) {
        const std::uint64_t word = words();
        std::memcpy(&result[at], &word, sizeof(word));
    }
    return result;
}

}  // namespace

Pages::Pages(Shape shape, std::uint32_t seed) {
    const std::uint64_t pitch = shape.block_bytes + (shape.contiguous ? 0 : shape.gap);
    memory_.resize(3 * kMargin + shape.blocks * pitch);
    clear();
    std::vector<std::uint64_t> order(shape.blocks);
    std::iota(order.begin(), order.end(), 0);
    if (!shape.contiguous) std::shuffle(order.begin(), order.end(), std::mt19937(seed));
    const auto start = reinterpret_cast<std::uint64_t>(memory_.data());
    const std::uint64_t base = (start + 2 * kMargin - 1) / kMargin * kMargin;
    std::vector<Segment> segments;
    segments.reserve(shape.blocks);
    for (const std::uint64_t block : order) {
        segments.push_back({base + block * pitch, shape.block_bytes});
    }
    slice_ = Slice::from_segments(std::move(segments));
}

// visit(canonical index, index in memory_, length) for each stretch of bytes [offset, offset +
// length).
template <typename Visit>
void Pages::walk(std::uint64_t offset, std::uint64_t length, Visit visit) const {
    Cursor cursor(slice_, offset, length);
    Segment segment;
    std::uint64_t index = offset;
    while (cursor.next({&segment, 1}) == 1) {
        visit(index, segment.address - reinterpret_cast<std::uint64_t>(memory_.data()),
              segment.length);
        index += segment.length;
    }
}

void Pages::fill(std::uint32_t seed) {
    clear();
    const std::vector<std::uint8_t> wanted = content(seed, bytes());
    walk(0, bytes(), [&](std::uint64_t index, std::uint64_t at, std::uint64_t length) {
        std::memcpy(&memory_[at], &wanted[index], length);
    });
}

void Pages::clear() { std::fill(memory_.begin(), memory_.end(), kEmpty); }

bool Pages::holds(std::uint32_t seed, std::uint64_t offset, std::uint64_t length) const {
    const std::vector<std::uint8_t> wanted = content(seed, bytes());
    bool equal = true;
    walk(offset, length, [&](std::uint64_t index, std::uint64_t at, std::uint64_t count) {
        equal = equal && std::memcmp(&memory_[at], &wanted[index], count) == 0;
    });
    return equal;
}

bool Pages::untouched_but(std::uint64_t offset, std::uint64_t length) const {
    std::vector<std::uint8_t> rest = memory_;
    walk(offset, length, [&](std::uint64_t, std::uint64_t at, std::uint64_t count) {
        std::memset(&rest[at], kEmpty, count);
    });
    return rest == std::vector<std::uint8_t>(memory_.size(), kEmpty);
}

}  // namespace mc::testing
