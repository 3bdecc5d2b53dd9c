// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "core/status.hpp"
#include "layout/match.hpp"
#include "layout/page_table.hpp"
#include "layout/pool.hpp"
#include "layout/walk.hpp"

namespace mc {

// `length` bytes at `address` in this engine's (or, for reads from a peer, the peer's) memory.
struct Segment {
    std::uint64_t address = 0;
    std::uint64_t length = 0;

    bool operator==(const Segment&) const = default;
};
// Checks that no segment wraps around the address space and that the sum of the lengths fits 64
// bits.
Status validate(std::span<const Segment> segments);

// The bytes of a token range of one side, in canonical order: an immutable value that Cursors walk.
// Also stands for a plain list of segments (one-sided read and write).
class Slice {
  public:
    // Fails when part of `tokens` has no page or a null page, or when the table's page size or page
    // count is not that of the walk's pool.
    static Result<std::shared_ptr<const Slice>> make(std::shared_ptr<const Walk> walk,
                                                     const PageTable& pages, TokenRange tokens);
    // `segments` must be valid; empty ones are dropped.
    static std::shared_ptr<const Slice> from_segments(std::vector<Segment> segments);

    [[nodiscard]] std::uint64_t bytes() const { return bytes_; }
    // Number of segments from which a mean can be judged: exact for lists, an estimate from runs
    // else (segments that touch where two planes or two runs meet count twice).
    [[nodiscard]] std::uint64_t estimated_segments() const { return estimated_segments_; }

    // For Cursor. A section is a stretch of tokens that fills the same part of each of its pages. A
    // slice has up to five: the rest of a block, the rest of a page, whole pages, whole blocks of
    // the last page, the start of a block. Only the third can have more than one page.
    struct Section {
        std::uint32_t first_run = 0;
        std::uint32_t end_run = 0;
        std::uint32_t token_in_page = 0;  // the first one
        std::uint32_t tokens_before = 0;  // of the slice, in front of this section
        std::uint32_t blocks = 0;         // of each page
        std::uint32_t block_tokens = 0;   // of each block
    };
    static constexpr std::size_t kMaxSections = 5;

    [[nodiscard]] const Walk* walk() const { return walk_.get(); }  // null for a list
    [[nodiscard]] std::uint32_t tokens() const { return tokens_; }
    [[nodiscard]] std::span<const PageRun> runs() const { return runs_; }
    [[nodiscard]] std::span<const Section> sections() const {
        return {sections_.data(), section_count_};
    }
    [[nodiscard]] const Nest& nest(std::uint32_t shape, std::uint32_t section) const {
        return nests_[shape * section_count_ + section];
    }
    [[nodiscard]] std::span<const Segment> segments() const { return segments_; }
    // Index of the segment that holds byte `offset` of the list, and the bytes in front of it.
    [[nodiscard]] std::pair<std::size_t, std::uint64_t> find_segment(std::uint64_t offset) const;

  private:
    Slice() = default;
    Status add_section(const PageTable& pages, TokenRange tokens, std::uint32_t first,
                       std::uint32_t blocks, std::uint32_t block_tokens);
    void add_nests();

    std::uint64_t bytes_ = 0;
    std::uint64_t estimated_segments_ = 0;

    std::shared_ptr<const Walk> walk_;
    std::uint32_t tokens_ = 0;
    std::uint32_t section_count_ = 0;
    std::array<Section, kMaxSections> sections_;
    std::vector<PageRun> runs_;
    std::vector<Nest> nests_;  // of each shape, of each section

    std::vector<Segment> segments_;
    std::vector<std::uint64_t> segment_ends_;  // in canonical bytes
};

// Judges how scattered a slice is; the choice of a path goes by it.
inline std::uint64_t mean_segment_bytes(const Slice& slice) {
    return slice.bytes() / std::max<std::uint64_t>(1, slice.estimated_segments());
}

// Walks a Slice from a byte offset on, yielding segments merged as far as this side's memory is
// contiguous in canonical order: two successive segments never touch, also across calls. Cheap to
// make: O(log planes + log runs), no allocation. A copy goes on from the same place.
class Cursor {
  public:
    // `length` bytes from `offset` on; both must lie within the slice (what does not is cut off).
    Cursor(std::shared_ptr<const Slice> slice, std::uint64_t offset, std::uint64_t length);

    // Fills `out` from its front; returns how many. Less than out.size() means the end.
    std::size_t next(std::span<Segment> out);
    [[nodiscard]] std::uint64_t remaining() const { return remaining_; }

  private:
    class Output;

    void seek(std::uint64_t offset);
    void enter_section();
    void enter_run();
    void advance_run();
    bool advance_row(const Nest& nest);
    [[nodiscard]] std::uint64_t step(const Loop& loop, std::uint64_t index) const;

    // All return false when the output is full.
    bool emit_list(Output& out);
    bool emit_section(const Nest& nest, Output& out);
    template <bool WholeRuns>
    bool emit_runs(const Nest& nest, Output& out);
    bool emit_run(const Nest& nest, Output& out);
    bool emit_row(const Loop& loop, std::uint64_t piece_bytes, std::uint64_t address,
                  std::uint64_t end, std::uint64_t& index, Output& out);

    std::shared_ptr<const Slice> slice_;
    std::uint64_t remaining_ = 0;
    std::uint64_t skip_ = 0;  // bytes of the present piece, run or listed segment that are done

    // The place in the canonical order.
    std::uint32_t root_ = 0;
    std::uint32_t section_ = 0;
    std::size_t run_ = 0;  // or the index in a list
    std::array<std::uint64_t, 2> around_{};
    std::array<std::uint64_t, Nest::kMaxLoops> index_{};

    // What follows from the place.
    std::uint64_t origin_ = 0;  // address of page 0's part in this section
    std::uint64_t page_stride_ = 0;
    std::array<std::uint64_t, Nest::kMaxLoops>
        address_{};  // with the loops in front of this one applied
};

}  // namespace mc
