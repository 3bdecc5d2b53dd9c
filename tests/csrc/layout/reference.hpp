// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <ostream>
#include <random>
#include <span>
#include <vector>

#include "layout/copy_plan.hpp"

namespace mc {

// For GoogleTest's messages.
inline std::ostream& operator<<(std::ostream& out, const Segment& segment) {
    return out << segment.address << "+" << segment.length;
}
inline std::ostream& operator<<(std::ostream& out, const PageRun& run) {
    return out << run.first_page << " x" << run.pages << " behind " << run.before;
}
inline std::ostream& operator<<(std::ostream& out, const TokenRange& range) {
    return out << "[" << range.first << ", " << range.end << ")";
}

}  // namespace mc

// A model of canonical order and of pools, written without any of the layout library's arithmetic:
// plain loops, one byte at a time. Slow, and obviously right.
namespace mc::reference {

using Random = std::mt19937_64;
inline Random seeded(std::uint64_t seed) { return Random(seed); }

// Uniform in [low, high].
inline std::uint32_t pick(Random& random, std::uint32_t low, std::uint32_t high) {
    return std::uniform_int_distribution<std::uint32_t>(low, high)(random);
}

// A pool with memory behind its planes.
struct OwnedPool {
    Pool pool;
    std::vector<std::vector<std::uint8_t>> memory;

    OwnedPool() = default;
    OwnedPool(OwnedPool&&) = default;  // moving a vector keeps its addresses
    OwnedPool& operator=(OwnedPool&&) = default;
};

// What a pool holds of a model.
struct PoolShape {
    std::vector<std::uint32_t> layers{0};
    std::vector<PlaneKind> kinds{PlaneKind::kv};
    std::uint32_t first_head = 0, heads = 1;
    std::uint32_t elements =
        4;  // of a token in one head and one of K and V; a kv plane has twice as many
    std::uint32_t element_bytes = 2;
    std::uint32_t page_size = 4, page_count = 8;
    std::optional<std::int32_t> null_page;
};

// One storage for all planes with its axes nested at random, or one storage for each plane; with
// gaps between axes now and then, and now and then with elements that do not touch.
OwnedPool make_pool(Random& random, const PoolShape& shape);

// The addresses of a slice's bytes in canonical order. `pages` holds the page of token t at
// t / page_size - first_page.
std::vector<std::uint64_t> addresses(const Pool& pool, const Match& match, Side side,
                                     std::span<const std::int32_t> pages, std::uint32_t first_page,
                                     TokenRange tokens);

// Neighbouring addresses, merged as far as possible.
std::vector<Segment> merge(std::span<const std::uint64_t> addresses);

// `count` different pages of `page_count`, in runs of random lengths.
std::vector<std::int32_t> random_pages(Random& random, std::uint32_t count,
                                       std::uint32_t page_count);

// All that is left in a cursor, fetched in portions of random size (at most `most`).
std::vector<Segment> drain(Random& random, Cursor cursor, std::uint32_t most = 9);

}  // namespace mc::reference
