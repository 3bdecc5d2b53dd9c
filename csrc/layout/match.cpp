// SPDX-License-Identifier: Apache-2.0
#include "layout/match.hpp"

#include <algorithm>
#include <numeric>
#include <tuple>

#include "layout/cover.hpp"
#include "layout/pairing.hpp"

namespace mc {
namespace {

// Sorts the pairs by address at the destination and joins neighbours that were cut for nothing.
void tidy(std::vector<PlanePair>& pairs, const Pool& destination) {
    const auto address = [&](const PlanePair& pair) {
        const Plane& plane = destination.planes[pair.destination_plane];
        return plane.base + pair.destination_head * plane.head_stride +
               pair.destination_element * plane.element_stride;
    };
    std::sort(pairs.begin(), pairs.end(), [&](const PlanePair& left, const PlanePair& right) {
        return std::tuple(address(left), left.destination_plane) <
               std::tuple(address(right), right.destination_plane);
    });
    std::vector<PlanePair> joined;
    for (const PlanePair& pair : pairs) {
        if (!joined.empty()) {
            PlanePair& last = joined.back();
            PlanePair continued = last;
            continued.source_head += last.heads;
            continued.destination_head += last.heads;
            continued.heads = pair.heads;
            if (continued == pair) {
                last.heads += pair.heads;
                continue;
            }
        }
        joined.push_back(pair);
    }
    pairs = std::move(joined);
}

}  // namespace

Result<std::vector<Match>> match_pools(std::span<const Pool* const> sources,
                                       const Pool& destination, std::uint32_t receiver_index) {
    MC_RETURN_IF_ERROR(validate(destination));
    std::vector<PlaneIndex> indexes;
    indexes.reserve(sources.size());
    for (const Pool* const source : sources) {
        MC_RETURN_IF_ERROR(validate(*source));
        MC_RETURN_IF_ERROR(check_fingerprints(*source, destination));
        indexes.emplace_back(*source);
    }
    std::vector<std::uint32_t> planes(destination.planes.size());
    std::iota(planes.begin(), planes.end(), 0U);
    std::sort(planes.begin(), planes.end(), [&](std::uint32_t left, std::uint32_t right) {
        const Plane& a = destination.planes[left];
        const Plane& b = destination.planes[right];
        return std::tie(a.layer, a.kind, a.first_head) < std::tie(b.layer, b.kind, b.first_head);
    });
    Cover cover(indexes, destination);
    for (const std::uint32_t plane : planes) MC_RETURN_IF_ERROR(cover.add(plane));
    auto pairs = cover.share(receiver_index);
    std::vector<Match> matches(sources.size());
    for (std::size_t i = 0; i < matches.size(); ++i) {
        Match& match = matches[i];
        match.pairs = std::move(pairs[i]);
        tidy(match.pairs, destination);
        for (const PlanePair& pair : match.pairs) {
            match.token_bytes += std::uint64_t{pair.heads} * pair.elements *
                                 destination.planes[pair.destination_plane].element_bytes;
        }
        if (match.pairs.empty()) continue;
        MC_RETURN_IF_ERROR(validate(match, *sources[i], Side::source));
        MC_RETURN_IF_ERROR(validate(match, destination, Side::destination));
        match.order = choose_order(*sources[i], destination, match);
    }
    return matches;
}

Match canonical_match(const Pool& pool) {
    struct Part {
        std::uint32_t plane;
        Half half;
    };
    std::vector<Part> parts;
    for (std::uint32_t i = 0; i < pool.planes.size(); ++i) {
        const bool kv = pool.planes[i].kind == PlaneKind::kv;
        parts.push_back({i, kv ? Half::k : Half::whole});
        if (kv) parts.push_back({i, Half::v});
    }
    std::sort(parts.begin(), parts.end(), [&](const Part& left, const Part& right) {
        const auto key = [&](const Part& part) {
            const Plane& plane = pool.planes[part.plane];
            PlaneKind kind = plane.kind;
            if (part.half != Half::whole) kind = part.half == Half::k ? PlaneKind::k : PlaneKind::v;
            return std::tuple(plane.layer, kind, plane.first_head);
        };
        return key(left) < key(right);
    });
    Match match;
    match.order = {.axes = {Axis::layer, Axis::block, Axis::token, Axis::head}, .block_tokens = 1};
    for (const Part& part : parts) {
        const Plane& plane = pool.planes[part.plane];
        const std::uint32_t element = first_element_of(plane, part.half);
        const PlanePair& pair =
            match.pairs.emplace_back(PlanePair{.source_plane = part.plane,
                                               .source_element = element,
                                               .destination_plane = part.plane,
                                               .destination_element = element,
                                               .heads = plane.heads,
                                               .elements = elements_of(plane, part.half)});
        match.token_bytes += std::uint64_t{pair.heads} * pair.elements * plane.element_bytes;
    }
    return match;
}

Status check_compatible(const Pool& source, const Pool& destination) {
    MC_RETURN_IF_ERROR(validate(source));
    MC_RETURN_IF_ERROR(validate(destination));
    MC_RETURN_IF_ERROR(check_fingerprints(source, destination));
    const PlaneIndex index(source);
    for (const Plane& plane : destination.planes) {
        for (const auto& [part, kind, half] : counterparts(index, plane.layer, plane.kind)) {
            for (const std::uint32_t candidate : index.find(plane.layer, kind)) {
                MC_RETURN_IF_ERROR(
                    check_elements(source.planes[candidate], half, destination, plane, part));
            }
        }
    }
    return {};
}

Status validate(const Match& match, const Pool& pool, Side side) {
    const auto refuse = [&](const std::string& what) {
        return Status(Code::layout_mismatch, "match for pool \"" + pool.name + "\": " + what);
    };
    MC_RETURN_IF_ERROR(validate(match.order));
    if (pool.page_size % match.order.block_tokens != 0) {
        return refuse("blocks of " + std::to_string(match.order.block_tokens) +
                      " tokens do not divide pages of " + std::to_string(pool.page_size) +
                      " tokens");
    }
    if (match.pairs.size() > 2 * std::size_t{kMaxPlanes}) {
        return refuse(std::to_string(match.pairs.size()) + " pairs are more than the bound of " +
                      std::to_string(2 * kMaxPlanes));
    }
    std::uint64_t token_bytes = 0;
    const Plane* first = nullptr;
    bool alike = true;
    for (const PlanePair& pair : match.pairs) {
        const bool source = side == Side::source;
        const std::uint32_t index = source ? pair.source_plane : pair.destination_plane;
        const std::uint32_t head = source ? pair.source_head : pair.destination_head;
        const std::uint32_t element = source ? pair.source_element : pair.destination_element;
        if (index >= pool.planes.size()) {
            return refuse("there is no plane " + std::to_string(index) + " among " +
                          std::to_string(pool.planes.size()));
        }
        const Plane& plane = pool.planes[index];
        if (pair.heads == 0 || head >= plane.heads || pair.heads > plane.heads - head) {
            return refuse(std::to_string(pair.heads) + " heads from " + std::to_string(head) +
                          " on are not in " + describe(plane) + " with " +
                          std::to_string(plane.heads));
        }
        if (pair.elements == 0 || element >= plane.elements ||
            pair.elements > plane.elements - element) {
            return refuse(std::to_string(pair.elements) + " elements from " +
                          std::to_string(element) + " on are not in " + describe(plane) + " with " +
                          std::to_string(plane.elements));
        }
        const std::uint64_t bytes = std::uint64_t{pair.heads} * pair.elements;
        std::uint64_t pair_bytes = 0;
        if (__builtin_mul_overflow(bytes, std::uint64_t{plane.element_bytes}, &pair_bytes) ||
            __builtin_add_overflow(token_bytes, pair_bytes, &token_bytes)) {
            return refuse("the bytes of a token do not fit 64 bits");
        }
        if (first == nullptr) first = &plane;
        alike = alike && pair.heads == match.pairs[0].heads &&
                pair.elements == match.pairs[0].elements &&
                plane.element_bytes == first->element_bytes &&
                plane.page_stride == first->page_stride &&
                plane.token_stride == first->token_stride &&
                plane.head_stride == first->head_stride &&
                plane.element_stride == first->element_stride;
    }
    if (token_bytes != match.token_bytes) {
        return refuse("a token has " + std::to_string(token_bytes) + " bytes here, but " +
                      std::to_string(match.token_bytes) + " there");
    }
    std::uint64_t pool_bytes = 0;
    if (__builtin_mul_overflow(token_bytes, std::uint64_t{pool.page_size} * pool.page_count,
                               &pool_bytes)) {
        return refuse("the bytes of all pages do not fit 64 bits");
    }
    if (!alike && match.order.axes[0] != Axis::layer) {
        return refuse(
            "planes that differ in strides or extents need an order with layers outermost, not " +
            to_string(match.order));
    }
    return {};
}

}  // namespace mc
