// SPDX-License-Identifier: Apache-2.0
#include "transport/support/pages.hpp"

#include <algorithm>
#include <numeric>
#include <random>

namespace mc::testing {
namespace {

constexpr std::uint8_t kEmpty = 0xee;
constexpr std::uint64_t kGap = 24;  // bytes between blocks

std::uint8_t content(std::uint32_t seed, std::uint64_t index) {
    std::uint64_t mixed = (index + 1) * 0x9e3779b97f4a7c15 + seed * 0xbf58476d1ce4e5b9;
    mixed ^= mixed >> 29;
    const auto byte = static_cast<std::uint8_t>(mixed >> 40);
    return byte == kEmpty ? std::uint8_t{0} : byte;  // so that clear memory never holds content
}

}  // namespace

Pages::Pages(Shape shape, std::uint32_t seed) {
    const std::uint64_t pitch = shape.block_bytes + (shape.contiguous ? 0 : kGap);
    memory_.resize(2 * kGap + shape.blocks * pitch);
    clear();
    std::vector<std::uint64_t> order(shape.blocks);
    std::iota(order.begin(), order.end(), 0);
    if (!shape.contiguous) std::shuffle(order.begin(), order.end(), std::mt19937(seed));
    const auto base = reinterpret_cast<std::uint64_t>(memory_.data()) + kGap;
    std::vector<Segment> segments;
    segments.reserve(shape.blocks);
    for (const std::uint64_t block : order) {
        segments.push_back({base + block * pitch, shape.block_bytes});
    }
    slice_ = Slice::from_segments(std::move(segments));
}

// visit(canonical index, index in memory_) for each byte of the slice.
template <typename Visit>
void Pages::walk(Visit visit) const {
    Cursor cursor(slice_, 0, slice_->bytes());
    Segment segment;
    std::uint64_t index = 0;
    while (cursor.next({&segment, 1}) == 1) {
        const std::uint64_t at =
            segment.address - reinterpret_cast<std::uint64_t>(memory_.data());
        for (std::uint64_t i = 0; i < segment.length; ++i) visit(index++, at + i);
    }
}

void Pages::fill(std::uint32_t seed) {
    clear();
    walk([&](std::uint64_t index, std::uint64_t at) { memory_[at] = content(seed, index); });
}

void Pages::clear() { std::fill(memory_.begin(), memory_.end(), kEmpty); }

bool Pages::holds(std::uint32_t seed, std::uint64_t offset, std::uint64_t length) const {
    bool equal = true;
    walk([&](std::uint64_t index, std::uint64_t at) {
        if (index - offset < length) equal = equal && memory_[at] == content(seed, index);
    });
    return equal;
}

bool Pages::untouched_but(std::uint64_t offset, std::uint64_t length) const {
    std::vector<bool> allowed(memory_.size());
    walk([&](std::uint64_t index, std::uint64_t at) { allowed[at] = index - offset < length; });
    for (std::size_t i = 0; i < memory_.size(); ++i) {
        if (!allowed[i] && memory_[i] != kEmpty) return false;
    }
    return true;
}

}  // namespace mc::testing
