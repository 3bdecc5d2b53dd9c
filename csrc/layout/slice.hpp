// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "core/status.hpp"
#include "layout/match.hpp"
#include "layout/page_table.hpp"
#include "layout/pool.hpp"

namespace mc {

// `length` bytes at `address` in this engine's (or, for reads from a peer, the peer's) memory.
struct Segment {
    std::uint64_t address = 0;
    std::uint64_t length = 0;

    bool operator==(const Segment&) const = default;
};

// One side of a Match: how to walk this side's planes in canonical order. Made once for each pair of
// pools and shared by all transfers.
class Walk {
  public:
    static Result<std::shared_ptr<const Walk>> make(const Pool& pool, const Match& match, Side side);

    [[nodiscard]] std::uint64_t token_bytes() const;
    // Mean length of the segments of a large slice whose pages are scattered: what the choice of a
    // path goes by when the other side's pages are not known yet.
    [[nodiscard]] std::uint64_t scattered_segment_bytes() const;
    [[nodiscard]] std::uint32_t page_size() const;
    // ... (private state: the planes as strided views in canonical order)
};

// The bytes of a token range of one side, in canonical order: an immutable value that Cursors walk.
// Also stands for a plain list of segments (one-sided read and write).
class Slice {
  public:
    // Fails when part of `tokens` has no page or a null page.
    static Result<std::shared_ptr<const Slice>> make(std::shared_ptr<const Walk> walk,
                                                     const PageTable& pages, TokenRange tokens);
    static std::shared_ptr<const Slice> from_segments(std::vector<Segment> segments);

    [[nodiscard]] std::uint64_t bytes() const;
    // Number of segments from which a mean can be judged: exact for lists, an estimate from runs else.
    [[nodiscard]] std::uint64_t estimated_segments() const;
};

// Judges how scattered a slice is; the choice of a path goes by it.
inline std::uint64_t mean_segment_bytes(const Slice& slice) {
    const std::uint64_t segments = slice.estimated_segments();
    return segments == 0 ? slice.bytes() : slice.bytes() / segments;
}

// Walks a Slice from a byte offset on, yielding segments merged as far as this side's memory is
// contiguous in canonical order. Cheap to make: O(planes + log runs), no allocation.
class Cursor {
  public:
    // `length` bytes from `offset` on; both must lie within the slice.
    Cursor(std::shared_ptr<const Slice> slice, std::uint64_t offset, std::uint64_t length);

    // Fills `out` from its front; returns how many. Less than out.size() means the end.
    std::size_t next(std::span<Segment> out);
    [[nodiscard]] std::uint64_t remaining() const;
};

}  // namespace mc
