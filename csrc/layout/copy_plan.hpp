// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include "layout/slice.hpp"

namespace mc {

// Copy `length` bytes from `source` to `destination`.
struct Span {
    std::uint64_t source = 0;
    std::uint64_t destination = 0;
    std::uint64_t length = 0;

    bool operator==(const Span&) const = default;
};

// Two cursors over the same canonical bytes, zipped: yields the spans that move them, merged where
// both sides are contiguous. Memory is bounded whatever the slices' size.
class CopyPlan {
  public:
    CopyPlan(Cursor source, Cursor destination);  // of equal length; else the shorter one decides

    // Fills `out` from its front; returns how many. Less than out.size() means the end.
    std::size_t next(std::span<Span> out);

  private:
    // One side: a window of segments, the first of which may be used up in part.
    struct Window {
        explicit Window(Cursor walked) : cursor(std::move(walked)) {}
        bool refill();
        // Takes `length` bytes off the front segment, which the caller holds. True if that was the
        // last of the window.
        bool use(Segment& front, std::uint64_t length) {
            if (front.length != length) {
                front = {front.address + length, front.length - length};
                return false;
            }
            if (++at == end) return true;
            front = segments[at];
            return false;
        }
        void keep(const Segment& front) {
            if (at < end) segments[at] = front;
        }

        Cursor cursor;
        std::array<Segment, 64> segments;
        std::size_t at = 0;
        std::size_t end = 0;
    };

    Window source_;
    Window destination_;
};

}  // namespace mc
