// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "core/status.hpp"
#include "layout/match.hpp"
#include "layout/pool.hpp"

namespace mc {

// `count` steps, each `stride` bytes further in memory (modulo 2^64: a step may go down). Over
// layers whose planes do not lie at equal distances, step i lies Walk::layer_offsets()[i] bytes
// further.
struct Loop {
    std::uint64_t count = 1;
    std::uint64_t stride = 0;
    bool by_table = false;

    bool operator==(const Loop&) const = default;
};

// A few loops, the outermost first; no allocation.
template <std::size_t Capacity>
struct LoopList {
    std::array<Loop, Capacity> loops{};
    std::uint32_t size = 0;

    void push_back(const Loop& loop) { loops[size++] = loop; }
    [[nodiscard]] std::span<const Loop> all() const { return {loops.data(), size}; }
    bool operator==(const LoopList&) const = default;
};

// The same part of each page in a run of pages, as nested loops around contiguous pieces of memory.
// Loops are merged where memory is contiguous, so there are as few of them as possible and
// consecutive steps of the innermost one never touch (those of a table may).
struct Nest {
    static constexpr std::size_t kMaxLoops = 6;  // pages, blocks, heads, layers, tokens, elements

    std::uint64_t piece_bytes = 0;  // of memory inside all loops
    std::uint64_t page_bytes = 0;   // that this nest takes from one page
    // loops[0] runs over pages: its count stands for one page and is multiplied by the run's pages.
    // Without loops, a whole run is one piece: of piece_bytes for each page.
    LoopList<kMaxLoops> loops;
    std::array<std::uint64_t, kMaxLoops> step_bytes{};  // canonical bytes of one step of each loop

    [[nodiscard]] std::uint64_t pieces(std::uint64_t pages) const;  // in a run of that many pages
};

// One side of a Match: how to walk this side's planes in canonical order. Made once for each pair
// of pools and shared by all transfers. Immutable.
//
// The canonical order is taken apart into
//   roots        the layers, when they are the outermost axis (else there is one root),
//   around       loops outside the block axis,
//   pages, blocks of a page,
//   between      loops between the block axis and the token axis,
//   tokens of a block,
//   inside       loops inside the token axis, elements included.
class Walk {
  public:
    // How a page is walked; shared by all roots whose planes have the same strides and extents.
    struct Shape {
        std::uint64_t page_stride = 0;
        std::uint64_t token_stride = 0;
        std::uint64_t element_bytes = 0;
        std::uint64_t token_bytes = 0;  // of one token in one step of the innermost `around` loop
        LoopList<2> around{};
        LoopList<2> between{};
        LoopList<3> inside{};

        bool operator==(const Shape&) const = default;
    };
    struct Root {
        std::uint64_t base = 0;          // address of page 0, token 0, first head and element
        std::uint64_t bytes_before = 0;  // of one token, over the roots in front of this one
        std::uint32_t shape = 0;
    };

    // Fails if the match is empty or does not fit the pool (both are checked with validate).
    static Result<std::shared_ptr<const Walk>> make(const Pool& pool, const Match& match,
                                                    Side side);

    [[nodiscard]] std::uint64_t token_bytes() const { return token_bytes_; }
    [[nodiscard]] std::uint32_t page_size() const { return page_size_; }
    [[nodiscard]] std::uint32_t page_count() const { return page_count_; }
    // Mean length of the segments of a large slice whose pages are scattered: what the choice of a
    // path goes by when the other side's pages are not known yet.
    [[nodiscard]] std::uint64_t scattered_segment_bytes() const { return segment_bytes(1); }
    // The same for pages in runs of `pages` consecutive ones (at most as many as the pool has).
    [[nodiscard]] std::uint64_t segment_bytes(std::uint32_t pages) const;

    // For Slice and Cursor.
    [[nodiscard]] std::uint32_t block_tokens() const { return block_tokens_; }
    [[nodiscard]] std::span<const Root> roots() const { return roots_; }
    [[nodiscard]] std::span<const Shape> shapes() const { return shapes_; }
    [[nodiscard]] std::span<const std::uint64_t> layer_offsets() const { return layer_offsets_; }
    // `blocks` blocks of a page with `tokens` tokens each.
    [[nodiscard]] Nest nest(const Shape& shape, std::uint64_t blocks, std::uint64_t tokens) const;

  private:
    Walk() = default;

    std::uint64_t token_bytes_ = 0;
    std::uint32_t page_size_ = 1;
    std::uint32_t page_count_ = 1;
    std::uint32_t block_tokens_ = 1;
    std::vector<Root> roots_;
    std::vector<Shape> shapes_;
    std::vector<std::uint64_t> layer_offsets_;  // from the first pair's plane; only for table loops
};

}  // namespace mc
