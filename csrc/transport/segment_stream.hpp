// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include <sys/uio.h>

#include "layout/slice.hpp"

namespace mc {

// A Cursor with a window of segments before it, so that bytes can be taken in any amounts: part of
// a segment now, the rest of it when the socket has room again.
class SegmentStream {
  public:
    static constexpr std::size_t kWindow = 256;  // segments: 4 KiB, a part of the L1 cache

    SegmentStream(const std::shared_ptr<const Slice>& slice, std::uint64_t offset,
                  std::uint64_t length)
        : cursor_(slice, offset, length), remaining_(length) {}

    // The segments that come next, the first one without what was taken of it; empty at the end,
    // and before it at least a quarter of the window. Valid until the next call of any member.
    std::span<const Segment> window();
    // Takes `bytes`, at most what the window holds.
    void advance(std::uint64_t bytes);

    [[nodiscard]] std::uint64_t remaining() const { return remaining_; }
    // Segments wholly taken so far.
    [[nodiscard]] std::uint64_t segments() const { return segments_; }
    // Whether the next segments are at least so long in the mean.
    [[nodiscard]] bool longer_than(std::uint64_t bytes);

  private:
    Cursor cursor_;
    std::array<Segment, kWindow> window_;
    std::size_t first_ = 0;
    std::size_t count_ = 0;
    bool exhausted_ = false;  // the cursor has no more
    std::uint64_t remaining_;
    std::uint64_t segments_ = 0;
};

// Copies the stream's next `bytes` to `to`; the stream must have them.
void gather(SegmentStream& from, std::uint8_t* to, std::uint64_t bytes);
// Copies `bytes` from `from` to where the stream's next segments lie.
void scatter(const std::uint8_t* from, SegmentStream& to, std::uint64_t bytes);

// Describes the stream's next bytes, at most `bytes` and one window of them, without taking them.
// Returns how many entries of `out` it filled, and adds the bytes they cover to `covered`.
std::size_t describe(SegmentStream& stream, std::uint64_t bytes, std::span<iovec> out,
                     std::uint64_t& covered);

}  // namespace mc
