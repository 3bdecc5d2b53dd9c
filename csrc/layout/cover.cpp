// SPDX-License-Identifier: Apache-2.0
#include "layout/cover.hpp"

#include <algorithm>
#include <string>

namespace mc {

Cover::Cover(std::span<const PlaneIndex> sources, const Pool& destination)
    : sources_(sources), destination_(destination) {}

Status Cover::add(std::uint32_t plane_index) {
    const Plane& plane = destination_.planes[plane_index];
    const std::uint32_t plane_end = plane.first_head + plane.heads;
    Holders holders;
    // The heads at which the set of holders may change.
    std::vector<std::uint32_t> cuts{plane.first_head, plane_end};
    for (std::uint32_t i = 0; i < sources_.size(); ++i) {
        for (const auto& [part, kind, half] : counterparts(sources_[i], plane.layer, plane.kind)) {
            for (const std::uint32_t candidate : sources_[i].find(plane.layer, kind)) {
                const Plane& source = sources_[i].pool().planes[candidate];
                MC_RETURN_IF_ERROR(check_elements(source, half, destination_, plane, part));
                const std::uint32_t first = std::max(source.first_head, plane.first_head);
                const std::uint32_t end = std::min(source.first_head + source.heads, plane_end);
                if (first >= end) continue;
                holders.push_back({i, candidate, half, part});
                cuts.insert(cuts.end(), {first, end});
            }
        }
    }
    std::sort(cuts.begin(), cuts.end());
    cuts.erase(std::unique(cuts.begin(), cuts.end()), cuts.end());
    for (std::size_t i = 1; i < cuts.size(); ++i) {
        Item item{plane_index, Half::whole, cuts[i - 1], cuts[i]};
        bool held = add_item(item, holders);
        if (!held && plane.kind == PlaneKind::kv) {
            item.part = Half::k;
            held = add_item(item, holders);
            item.part = Half::v;
            held = held && add_item(item, holders);
        }
        if (!held) {
            return mismatch(
                destination_,
                describe(plane) + ", heads " + std::to_string(item.first_head) + " to " +
                    std::to_string(item.end_head - 1) + ": none of the " +
                    std::to_string(sources_.size()) +
                    " sources holds them; name all tensor- and pipeline-parallel ranks, and "
                    "serve the same model with the same KV cache format");
        }
    }
    return {};
}

bool Cover::add_item(const Item& item, const Holders& candidates) {
    Holders holders;
    std::vector<std::uint32_t> holding_sources;
    for (const Holder& holder : candidates) {
        const Plane& source = sources_[holder.source].pool().planes[holder.plane];
        if (holder.part != item.part || source.first_head > item.first_head ||
            source.first_head + source.heads < item.end_head) {
            continue;
        }
        holders.push_back(holder);
        holding_sources.push_back(holder.source);
    }
    if (holders.empty()) return false;
    items_[std::move(holding_sources)].emplace_back(item, std::move(holders));
    return true;
}

std::vector<std::vector<PlanePair>> Cover::share(std::uint32_t receiver_index) const {
    std::vector<std::vector<PlanePair>> pairs(sources_.size());
    for (const auto& [holding_sources, items] : items_) {
        const std::size_t holders = holding_sources.size();
        for (std::size_t i = 0; i < items.size(); ++i) {
            const std::size_t share = i * holders / items.size();
            const auto& [item, item_holders] = items[i];
            const Holder& chosen = item_holders[(share + receiver_index) % holders];
            pairs[chosen.source].push_back(pair(item, chosen));
        }
    }
    return pairs;
}

PlanePair Cover::pair(const Item& item, const Holder& holder) const {
    const Plane& source = sources_[holder.source].pool().planes[holder.plane];
    const Plane& plane = destination_.planes[item.plane];
    return {.source_plane = holder.plane,
            .source_head = item.first_head - source.first_head,
            .source_element = first_element_of(source, holder.half),
            .destination_plane = item.plane,
            .destination_head = item.first_head - plane.first_head,
            .destination_element = first_element_of(plane, item.part),
            .heads = item.end_head - item.first_head,
            .elements = elements_of(plane, item.part)};
}

}  // namespace mc
