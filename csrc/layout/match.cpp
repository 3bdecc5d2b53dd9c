// SPDX-License-Identifier: Apache-2.0
#include "layout/match.hpp"

#include <algorithm>
#include <map>
#include <tuple>

namespace mc {
namespace {

// Which elements of a plane: all, or its K or V half.
enum class Half : std::uint8_t { whole, k, v };

std::string describe(std::uint32_t layer, PlaneKind kind) {
    return "layer " + std::to_string(layer) + " (" + std::string(to_string(kind)) + ")";
}

Status mismatch(const Pool& pool, const std::string& what) {
    return {Code::layout_mismatch, "pool '" + pool.name + "': " + what};
}

// Finds a pool's planes by (layer, kind), in the order of their heads.
class PlaneIndex {
  public:
    explicit PlaneIndex(const Pool& pool) : pool_(&pool) {
        for (std::uint32_t i = 0; i < pool.planes.size(); ++i) {
            planes_[{pool.planes[i].layer, pool.planes[i].kind}].push_back(i);
        }
        for (auto& [key, planes] : planes_) {
            std::sort(planes.begin(), planes.end(), [&](std::uint32_t left, std::uint32_t right) {
                return pool.planes[left].first_head < pool.planes[right].first_head;
            });
        }
    }

    [[nodiscard]] const Pool& pool() const { return *pool_; }
    [[nodiscard]] std::span<const std::uint32_t> find(std::uint32_t layer, PlaneKind kind) const {
        const auto found = planes_.find({layer, kind});
        return found == planes_.end() ? std::span<const std::uint32_t>() : found->second;
    }

  private:
    const Pool* pool_;
    std::map<std::pair<std::uint32_t, PlaneKind>, std::vector<std::uint32_t>> planes_;
};

// How a plane of one pool stands for `part` of a plane of another: as its kind and half.
struct Counterpart {
    PlaneKind kind;
    Half half;
};

// What in `pool` can be paired with a plane of `kind` in `layer`: the same kind directly, so that
// merging survives, else the other form of K and V. Listed are (part of the plane, counterpart).
std::vector<std::pair<Half, Counterpart>> counterparts(const PlaneIndex& pool, std::uint32_t layer, PlaneKind kind) {
    if (!pool.find(layer, kind).empty()) return {{Half::whole, {kind, Half::whole}}};
    if (kind == PlaneKind::kv) {
        return {{Half::k, {PlaneKind::k, Half::whole}}, {Half::v, {PlaneKind::v, Half::whole}}};
    }
    if (kind == PlaneKind::k) return {{Half::whole, {PlaneKind::kv, Half::k}}};
    if (kind == PlaneKind::v) return {{Half::whole, {PlaneKind::kv, Half::v}}};
    return {};
}

std::uint32_t elements_of(const Plane& plane, Half half) {
    return half == Half::whole ? plane.elements : plane.elements / 2;
}
std::uint32_t first_element_of(const Plane& plane, Half half) { return half == Half::v ? plane.elements / 2 : 0; }

Status check_planes(const Pool& pool, const Plane& source, Half source_half, const Plane& destination,
                    Half destination_half) {
    const auto differ = [&](const std::string& what, const std::string& there, const std::string& here) {
        return mismatch(pool, describe(destination.layer, destination.kind) + ": the source has " + what + " " +
                                  there + ", the destination " + here +
                                  "; start both sides with the same model and KV cache format");
    };
    if (source.dtype != destination.dtype) return differ("dtype", source.dtype, destination.dtype);
    if (source.element_bytes != destination.element_bytes) {
        return differ("element bytes", std::to_string(source.element_bytes),
                      std::to_string(destination.element_bytes));
    }
    const std::uint32_t there = elements_of(source, source_half);
    const std::uint32_t here = elements_of(destination, destination_half);
    if (there != here) return differ("head dimension", std::to_string(there), std::to_string(here));
    return {};
}

Status check_fingerprints(const Pool& source, const Pool& destination) {
    if (source.fingerprint == destination.fingerprint) return {};
    return mismatch(destination, "the source holds '" + source.fingerprint + "', the destination '" +
                                     destination.fingerprint +
                                     "'; start both sides with the same model and KV cache format");
}

// Heads of (a part of) a destination plane that the same sources hold.
struct Item {
    std::uint32_t plane;
    Half half;
    std::uint32_t first_head;  // in the whole model
    std::uint32_t end_head;
};
struct Holder {
    std::uint32_t source;
    std::uint32_t plane;
    Half half;
};

// Cuts (a part of) one destination plane where the set of its holders changes.
class Cover {
  public:
    Cover(std::span<const PlaneIndex> sources, const Pool& destination)
        : sources_(sources), destination_(destination), matches_(sources.size()) {}

    Status add(std::uint32_t plane_index) {
        const Plane& plane = destination_.planes[plane_index];
        // Sources differ in form only when they are misconfigured; then what one form covers counts.
        const bool direct = std::any_of(sources_.begin(), sources_.end(), [&](const PlaneIndex& source) {
            return !source.find(plane.layer, plane.kind).empty();
        });
        if (plane.kind != PlaneKind::kv || direct) return add_part(plane_index, Half::whole);
        MC_RETURN_IF_ERROR(add_part(plane_index, Half::k));
        return add_part(plane_index, Half::v);
    }

    // Gives each item to one of its holders.
    std::vector<Match> share(std::uint32_t receiver_index) {
        for (auto& [holding_sources, items] : items_) {
            const std::size_t holders = holding_sources.size();
            for (std::size_t i = 0; i < items.size(); ++i) {
                const std::size_t share = i * holders / items.size();
                const std::size_t chosen = (share + receiver_index) % holders;
                assign(items[i].first, items[i].second[chosen]);
            }
        }
        return std::move(matches_);
    }

  private:
    Status add_part(std::uint32_t plane_index, Half half) {
        const Plane& plane = destination_.planes[plane_index];
        const std::uint32_t plane_end = plane.first_head + plane.heads;
        std::vector<Holder> holders;
        std::vector<std::uint32_t> cuts{plane.first_head, plane_end};
        for (std::uint32_t i = 0; i < sources_.size(); ++i) {
            for (const auto& [part, counterpart] : counterparts(sources_[i], plane.layer, plane.kind)) {
                if (part != half) continue;
                for (const std::uint32_t candidate : sources_[i].find(plane.layer, counterpart.kind)) {
                    const Plane& source = sources_[i].pool().planes[candidate];
                    MC_RETURN_IF_ERROR(check_planes(destination_, source, counterpart.half, plane, half));
                    const std::uint32_t source_end = source.first_head + source.heads;
                    if (source.first_head >= plane_end || source_end <= plane.first_head) continue;
                    holders.push_back({i, candidate, counterpart.half});
                    cuts.push_back(std::max(source.first_head, plane.first_head));
                    cuts.push_back(std::min(source_end, plane_end));
                }
            }
        }
        std::sort(cuts.begin(), cuts.end());
        cuts.erase(std::unique(cuts.begin(), cuts.end()), cuts.end());
        for (std::size_t i = 1; i < cuts.size(); ++i) {
            MC_RETURN_IF_ERROR(add_item({plane_index, half, cuts[i - 1], cuts[i]}, holders));
        }
        return {};
    }

    Status add_item(const Item& item, std::span<const Holder> candidates) {
        std::vector<Holder> holders;
        std::vector<std::uint32_t> holding_sources;
        for (const Holder& holder : candidates) {
            const Plane& source = sources_[holder.source].pool().planes[holder.plane];
            if (source.first_head > item.first_head || source.first_head + source.heads < item.end_head) continue;
            holders.push_back(holder);
            holding_sources.push_back(holder.source);
        }
        if (holders.empty()) {
            const Plane& plane = destination_.planes[item.plane];
            return mismatch(destination_, describe(plane.layer, plane.kind) + ", heads " +
                                              std::to_string(item.first_head) + " to " +
                                              std::to_string(item.end_head - 1) +
                                              ": none of the " + std::to_string(sources_.size()) +
                                              " sources holds them; name all tensor- and pipeline-parallel ranks");
        }
        items_[std::move(holding_sources)].emplace_back(item, std::move(holders));
        return {};
    }

    void assign(const Item& item, const Holder& holder) {
        const Plane& source = sources_[holder.source].pool().planes[holder.plane];
        const Plane& plane = destination_.planes[item.plane];
        const PlanePair pair{.source_plane = holder.plane,
                             .source_head = item.first_head - source.first_head,
                             .source_element = first_element_of(source, holder.half),
                             .destination_plane = item.plane,
                             .destination_head = item.first_head - plane.first_head,
                             .destination_element = first_element_of(plane, item.half),
                             .heads = item.end_head - item.first_head,
                             .elements = elements_of(plane, item.half)};
        matches_[holder.source].pairs.push_back(pair);
    }

    std::span<const PlaneIndex> sources_;
    const Pool& destination_;
    std::map<std::vector<std::uint32_t>, std::vector<std::pair<Item, std::vector<Holder>>>> items_;
    std::vector<Match> matches_;
};

// Sorts the pairs by address at the destination and joins neighbours that were cut for nothing.
void tidy(std::vector<PlanePair>& pairs, const Pool& destination) {
    const auto address = [&](const PlanePair& pair) {
        const Plane& plane = destination.planes[pair.destination_plane];
        return plane.base + pair.destination_head * plane.head_stride +
               pair.destination_element * plane.element_stride;
    };
    std::sort(pairs.begin(), pairs.end(), [&](const PlanePair& left, const PlanePair& right) {
        return std::tuple(address(left), left.destination_plane) < std::tuple(address(right), right.destination_plane);
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

Result<std::vector<Match>> match_pools(std::span<const Pool* const> sources, const Pool& destination,
                                       std::uint32_t receiver_index) {
    MC_RETURN_IF_ERROR(validate(destination));
    std::vector<PlaneIndex> indexes;
    indexes.reserve(sources.size());
    for (const Pool* const source : sources) {
        MC_RETURN_IF_ERROR(validate(*source));
        MC_RETURN_IF_ERROR(check_fingerprints(*source, destination));
        indexes.emplace_back(*source);
    }
    std::vector<std::uint32_t> planes(destination.planes.size());
    for (std::uint32_t i = 0; i < planes.size(); ++i) planes[i] = i;
    std::sort(planes.begin(), planes.end(), [&](std::uint32_t left, std::uint32_t right) {
        const Plane& a = destination.planes[left];
        const Plane& b = destination.planes[right];
        return std::tie(a.layer, a.kind, a.first_head) < std::tie(b.layer, b.kind, b.first_head);
    });
    Cover cover(indexes, destination);
    for (const std::uint32_t plane : planes) MC_RETURN_IF_ERROR(cover.add(plane));
    std::vector<Match> matches = cover.share(receiver_index);
    for (std::size_t i = 0; i < matches.size(); ++i) {
        Match& match = matches[i];
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
        for (const auto& [half, counterpart] : counterparts(index, plane.layer, plane.kind)) {
            for (const std::uint32_t candidate : index.find(plane.layer, counterpart.kind)) {
                MC_RETURN_IF_ERROR(check_planes(destination, source.planes[candidate], counterpart.half, plane, half));
            }
        }
    }
    return {};
}

Status validate(const Match& match, const Pool& pool, Side side) {
    const auto refuse = [&](const std::string& what) {
        return Status(Code::layout_mismatch, "match for pool '" + pool.name + "': " + what);
    };
    MC_RETURN_IF_ERROR(validate(match.order));
    if (pool.page_size % match.order.block_tokens != 0) {
        return refuse("blocks of " + std::to_string(match.order.block_tokens) + " tokens do not divide pages of " +
                      std::to_string(pool.page_size) + " tokens");
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
            return refuse(std::to_string(pair.heads) + " heads from " + std::to_string(head) + " on are not in " +
                          describe(plane.layer, plane.kind) + " with " + std::to_string(plane.heads));
        }
        if (pair.elements == 0 || element >= plane.elements || pair.elements > plane.elements - element) {
            return refuse(std::to_string(pair.elements) + " elements from " + std::to_string(element) +
                          " on are not in " + describe(plane.layer, plane.kind) + " with " +
                          std::to_string(plane.elements));
        }
        const std::uint64_t bytes = std::uint64_t{pair.heads} * pair.elements;
        std::uint64_t pair_bytes = 0;
        if (__builtin_mul_overflow(bytes, std::uint64_t{plane.element_bytes}, &pair_bytes) ||
            __builtin_add_overflow(token_bytes, pair_bytes, &token_bytes)) {
            return refuse("the bytes of a token do not fit 64 bits");
        }
        if (first == nullptr) first = &plane;
        alike = alike && pair.heads == match.pairs[0].heads && pair.elements == match.pairs[0].elements &&
                plane.element_bytes == first->element_bytes && plane.page_stride == first->page_stride &&
                plane.token_stride == first->token_stride && plane.head_stride == first->head_stride &&
                plane.element_stride == first->element_stride;
    }
    if (token_bytes != match.token_bytes) {
        return refuse("a token has " + std::to_string(token_bytes) + " bytes here, but " +
                      std::to_string(match.token_bytes) + " there");
    }
    std::uint64_t pool_bytes = 0;
    if (__builtin_mul_overflow(token_bytes, std::uint64_t{pool.page_size} * pool.page_count, &pool_bytes)) {
        return refuse("the bytes of all pages do not fit 64 bits");
    }
    if (!alike && match.order.axes[0] != Axis::layer) {
        return refuse("planes that differ in strides or extents need an order with layers outermost, not " +
                      to_string(match.order));
    }
    return {};
}

}  // namespace mc
