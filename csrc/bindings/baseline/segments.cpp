// SPDX-License-Identifier: Apache-2.0
#include "bindings/baseline/segments.hpp"

#include <algorithm>
#include <cstring>

namespace mc::baseline {

namespace {

std::byte* pointer(std::uint64_t address) {
    return reinterpret_cast<std::byte*>(address);  // NOLINT(performance-no-int-to-ptr)
}

}  // namespace

SegmentWalk::SegmentWalk(std::span<const Segment> segments) : segments_(segments) {
    for (const Segment& segment : segments_) remaining_ += segment.length;
}

// Hands pieces of up to `limit` bytes in all to copy(address, offset from the start, length).
template <typename Copy>
std::size_t SegmentWalk::walk(std::size_t limit, Copy&& copy) {
    std::size_t done = 0;
    while (done < limit && index_ < segments_.size()) {
        const Segment& segment = segments_[index_];
        const std::size_t length = std::min<std::size_t>(segment.length - offset_, limit - done);
        copy(pointer(segment.address + offset_), done, length);
        done += length;
        offset_ += length;
        if (offset_ == segment.length) {
            ++index_;
            offset_ = 0;
        }
    }
    remaining_ -= done;
    return done;
}

std::size_t SegmentWalk::gather(std::byte* out, std::size_t capacity) {
    return walk(capacity, [out](const std::byte* from, std::size_t at, std::size_t length) {
        std::memcpy(out + at, from, length);
    });
}

void SegmentWalk::scatter(const std::byte* in, std::size_t bytes) {
    walk(bytes, [in](std::byte* to, std::size_t at, std::size_t length) {
        std::memcpy(to, in + at, length);
    });
}

void SegmentWalk::advance(std::size_t bytes) {
    walk(bytes, [](std::byte*, std::size_t, std::size_t) {});
}

std::size_t SegmentWalk::describe(std::span<iovec, kMaxVectors> out) const {
    const std::size_t count = std::min(out.size(), segments_.size() - index_);
    for (std::size_t i = 0; i < count; ++i) {
        const Segment& segment = segments_[index_ + i];
        out[i] = {pointer(segment.address), segment.length};
    }
    if (count > 0) {
        out[0].iov_base = pointer(segments_[index_].address + offset_);
        out[0].iov_len -= offset_;
    }
    return count;
}

}  // namespace mc::baseline
