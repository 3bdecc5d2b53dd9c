// SPDX-License-Identifier: Apache-2.0
#include "transport/segment_stream.hpp"

#include <algorithm>
#include <cstring>

namespace mc {
namespace {

// Pages lie anywhere, so the hardware cannot guess where the next segment is: each copy would begin
// with a cache miss. While one segment is copied, the first lines of one a little further on are
// fetched; the rest of a long segment the hardware finds by itself.
constexpr std::size_t kPrefetchSegments = 4;
constexpr std::uint64_t kPrefetchBytes = 512;
constexpr std::uint64_t kPrefetchStep = 64;  // a cache line

template <int for_writing>
void prefetch(const Segment& segment) {
    const auto* line = reinterpret_cast<const std::uint8_t*>(segment.address);
    const std::uint64_t bytes = std::min(segment.length, kPrefetchBytes);
    for (std::uint64_t at = 0; at < bytes; at += kPrefetchStep) {
        __builtin_prefetch(line + at, for_writing, 3);
    }
}

enum class Direction { gather, scatter };

// The one copy loop: `flat` is the packed side.
template <Direction direction, typename Flat>
void copy(SegmentStream& stream, Flat* flat, std::uint64_t bytes) {
    while (bytes > 0) {
        const std::span<const Segment> window = stream.window();
        std::uint64_t taken = 0;
        for (std::size_t i = 0; i < window.size() && taken < bytes; ++i) {
            if (i + kPrefetchSegments < window.size()) {
                prefetch<direction == Direction::scatter>(window[i + kPrefetchSegments]);
            }
            const std::uint64_t length = std::min(window[i].length, bytes - taken);
            if constexpr (direction == Direction::gather) {
                std::memcpy(flat + taken, reinterpret_cast<const void*>(window[i].address), length);
            } else {
                std::memcpy(reinterpret_cast<void*>(window[i].address), flat + taken, length);
            }
            taken += length;
        }
        stream.advance(taken);
        flat += taken;
        bytes -= taken;
    }
}

}  // namespace

std::span<const Segment> SegmentStream::window() {
    if (count_ - first_ < kWindow / 4 && !exhausted_) {
        std::copy(window_.begin() + first_, window_.begin() + count_, window_.begin());
        count_ -= first_;
        first_ = 0;
        const std::size_t asked = kWindow - count_;
        const std::size_t got = cursor_.next(std::span(window_).subspan(count_));
        exhausted_ = got < asked;
        count_ += got;
    }
    return std::span<const Segment>(window_).subspan(first_, count_ - first_);
}

void SegmentStream::advance(std::uint64_t bytes) {
    remaining_ -= bytes;
    while (bytes > 0) {
        Segment& segment = window_[first_];
        if (bytes < segment.length) {
            segment.address += bytes;
            segment.length -= bytes;
            return;
        }
        bytes -= segment.length;
        ++first_;
        ++segments_;
    }
}

bool SegmentStream::longer_than(std::uint64_t bytes) {
    std::uint64_t total = 0;
    const std::span<const Segment> next = window();
    for (const Segment& segment : next) total += segment.length;
    return total >= next.size() * bytes;
}

void gather(SegmentStream& from, std::uint8_t* to, std::uint64_t bytes) {
    copy<Direction::gather>(from, to, bytes);
}

void scatter(const std::uint8_t* from, SegmentStream& to, std::uint64_t bytes) {
    copy<Direction::scatter>(to, from, bytes);
}

std::size_t describe(SegmentStream& stream, std::uint64_t bytes, std::span<iovec> out,
                     std::uint64_t& covered) {
    std::size_t count = 0;
    std::uint64_t described = 0;
    for (const Segment& segment : stream.window()) {
        if (count == out.size() || described == bytes) break;
        const std::uint64_t length = std::min(segment.length, bytes - described);
        out[count++] = {reinterpret_cast<void*>(segment.address), length};
        described += length;
    }
    covered += described;
    return count;
}

}  // namespace mc
