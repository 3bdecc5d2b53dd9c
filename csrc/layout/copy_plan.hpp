// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
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
    CopyPlan(Cursor source, Cursor destination);  // of equal length

    // Fills `out` from its front; returns how many. Less than out.size() means the end.
    std::size_t next(std::span<Span> out);
};

}  // namespace mc
