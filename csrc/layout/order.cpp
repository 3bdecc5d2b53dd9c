// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <numeric>
#include <tuple>

#include "layout/match.hpp"
#include "layout/walk.hpp"

namespace mc {
namespace {

// Pages that count as "many in a row" when orders are compared. Serving engines hand out longer
// runs from a fresh cache, but what merges over 64 pages merges over more.
constexpr std::uint32_t kRunPages = 64;

std::size_t position(const Order& order, Axis axis) {
    return static_cast<std::size_t>(std::find(order.axes.begin(), order.axes.end(), axis) -
                                    order.axes.begin());
}

// Larger is better.
using Score = std::tuple<std::uint64_t, std::uint64_t, std::uint64_t, std::uint64_t>;

Score score(const Walk& source, const Walk& destination) {
    const auto scattered = std::minmax({source.segment_bytes(1), destination.segment_bytes(1)});
    const auto in_runs =
        std::minmax({source.segment_bytes(kRunPages), destination.segment_bytes(kRunPages)});
    return {scattered.first, scattered.second, in_runs.first, in_runs.second};
}

}  // namespace

Status validate(const Order& order) {
    auto sorted = order.axes;
    std::sort(sorted.begin(), sorted.end());
    if (sorted != std::array{Axis::layer, Axis::block, Axis::head, Axis::token}) {
        return {Code::invalid_argument, "a canonical order must name each axis once"};
    }
    if (position(order, Axis::token) < position(order, Axis::block)) {
        return {Code::invalid_argument,
                "a canonical order must have the token axis inside the block axis"};
    }
    if (order.block_tokens == 0 || order.block_tokens > kMaxPageSize) {
        return {Code::invalid_argument,
                "a canonical order has blocks of " + std::to_string(order.block_tokens) +
                    " tokens; it must be 1 to " + std::to_string(kMaxPageSize)};
    }
    return {};
}

std::string to_string(const Order& order) {
    static constexpr char kLetters[] = "LBHN";
    std::string text;
    for (const Axis axis : order.axes) text.push_back(kLetters[static_cast<std::size_t>(axis) & 3]);
    return text + ", blocks of " + std::to_string(order.block_tokens) +
           (order.block_tokens == 1 ? " token" : " tokens");
}

Order choose_order(const Pool& source, const Pool& destination, const Match& match) {
    Match candidate = match;
    std::array axes{Axis::layer, Axis::block, Axis::head, Axis::token};
    Order best;
    Score best_score{};
    do {
        candidate.order.axes = axes;
        const std::size_t block = position(candidate.order, Axis::block);
        const std::size_t token = position(candidate.order, Axis::token);
        if (token < block) continue;
        // With nothing between them, the size of a block makes no difference; and with blocks of
        // one token it makes none what is between them.
        const bool adjacent = token == block + 1;
        candidate.order.block_tokens =
            adjacent ? 1 : std::gcd(source.page_size, destination.page_size);
        if (!adjacent && candidate.order.block_tokens == 1) continue;
        const auto from = Walk::make(source, candidate, Side::source);
        const auto to = Walk::make(destination, candidate, Side::destination);
        if (!from || !to) continue;  // an order that these planes do not permit
        const Score candidate_score = score(**from, **to);
        if (candidate_score > best_score) {
            best_score = candidate_score;
            best = candidate.order;
        }
    } while (std::next_permutation(axes.begin(), axes.end()));
    return best;
}

}  // namespace mc
