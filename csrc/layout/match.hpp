// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "core/status.hpp"
#include "layout/pool.hpp"

namespace mc {

// The axes of a transfer, for naming canonical orders as vLLM names its cache layouts.
enum class Axis : std::uint8_t { layer, block, head, token };

// The canonical order of a slice's bytes: a nest of loops, outermost first; elements are innermost.
// A "block" is `block_tokens` tokens whose numbers start at a multiple of it (clipped to the
// slice), and the token axis runs inside a block. The layer axis runs over the pairs of a Match in
// their order, the head axis over a pair's heads. Both ends of a transfer walk their own memory in
// this order, so that the n-th byte of one is the n-th byte of the other.
struct Order {
    std::array<Axis, 4> axes{Axis::layer, Axis::block, Axis::head, Axis::token};
    std::uint32_t block_tokens = 1;

    bool operator==(const Order&) const = default;
};
Status validate(
    const Order& order);  // each axis once, token after block, block_tokens in [1, kMaxPageSize]
std::string to_string(const Order& order);  // e.g. "LBHN, blocks of 16 tokens"

// One source plane paired with one destination plane: `heads` heads and `elements` elements of each
// token, from the given first ones on.
struct PlanePair {
    std::uint32_t source_plane = 0, source_head = 0, source_element = 0;
    std::uint32_t destination_plane = 0, destination_head = 0, destination_element = 0;
    std::uint32_t heads = 0, elements = 0;

    bool operator==(const PlanePair&) const = default;
};

// How two pools pair: what moves, and in which order. Sent to the sender as PLAN.
//
// Three rules make every walk a regular nest of loops: `block_tokens` divides the page size of both
// pools, so that no block crosses a page; all planes of a side have equal strides, and all pairs
// equal extents, unless the layer axis is outermost; and the bytes of a whole pool fit 64 bits.
struct Match {
    std::vector<PlanePair> pairs;  // in canonical order of the layer axis
    Order order;
    std::uint64_t token_bytes = 0;  // bytes of one token over all pairs

    bool operator==(const Match&) const = default;
};

// Pairs `destination` with the pools of all senders of one recv (TP and PP ranks): planes by
// (layer, kind), heads by intersection; `kv` against split `k`/`v` becomes two pairs. Pairs stand
// in the order of their addresses at the destination.
//
// Where several senders hold the same (layer, head) exactly one is chosen, by a rule that depends
// only on the arguments: what the same senders hold is cut into equal shares of consecutive layers,
// one for each of them, and `receiver_index` rotates who gets which share.
//
// Returns one Match for each source; a Match may be empty (that sender is only released). It fails
// with layout_mismatch and a readable difference when dtype, element bytes, head dimension or
// fingerprint differ, or when some (layer, head) of the destination is held by no source.
Result<std::vector<Match>> match_pools(std::span<const Pool* const> sources,
                                       const Pool& destination, std::uint32_t receiver_index = 0);

// The order in which two pools exchange the pairs of `match` (its order is ignored) in the fewest
// pieces. All orders are tried, with the largest block that crosses pages on neither side; compared
// is, one after the other: the shorter of both sides' mean segments if pages are scattered (it
// bounds the spans), the longer one (it is gathered or scattered by one side alone), and then both
// for runs of consecutive pages. Among equals the first in alphabet L, B, H, N wins.
Order choose_order(const Pool& source, const Pool& destination, const Match& match);

// Pairs a pool with itself in an order that no layout changes, for digests and flat copies: layers
// in ascending order, of each K before V (of `kv` too), then tokens, heads, elements. The pool must
// be valid.
Match canonical_match(const Pool& pool);

// Whether two pools could ever exchange pages; what the handshake reports. Coverage is not checked.
Status check_compatible(const Pool& source, const Pool& destination);

// Checks a Match that a peer sent against this engine's own pool (the source or destination side):
// every index and range, the byte count, and the three rules above as far as this side can see
// them.
enum class Side : std::uint8_t { source, destination };
Status validate(const Match& match, const Pool& pool, Side side);

}  // namespace mc
