// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <utility>
#include <vector>

#include "core/status.hpp"
#include "layout/match.hpp"
#include "layout/pairing.hpp"

namespace mc {

// Decides which of several sources sends which heads of which planes of a destination: each exactly
// once. match_pools() states the rule. The sources and the destination must outlive it.
class Cover {
  public:
    Cover(std::span<const PlaneIndex> sources, const Pool& destination);

    // Finds who holds this plane of the destination. Fails if its elements differ somewhere, or if
    // nobody holds some head of it.
    Status add(std::uint32_t plane);
    // Shares out what was added. The pairs of each source, in no particular order.
    std::vector<std::vector<PlanePair>> share(std::uint32_t receiver_index) const;

  private:
    // Heads of a part of a destination plane that the same sources hold.
    struct Item {
        std::uint32_t plane;
        Half part;
        std::uint32_t first_head;  // in the whole model
        std::uint32_t end_head;
    };
    struct Holder {
        std::uint32_t source;
        std::uint32_t plane;
        Half half;  // of this plane
        Half part;  // of the destination's plane, for which that half stands
    };
    using Holders = std::vector<Holder>;

    bool add_item(const Item& item, const Holders& candidates);  // false if nobody holds it
    [[nodiscard]] PlanePair pair(const Item& item, const Holder& holder) const;

    std::span<const PlaneIndex> sources_;
    const Pool& destination_;
    // By the sources that hold them, in the order of add().
    std::map<std::vector<std::uint32_t>, std::vector<std::pair<Item, Holders>>> items_;
};

}  // namespace mc
