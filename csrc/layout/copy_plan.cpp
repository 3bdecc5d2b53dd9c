// SPDX-License-Identifier: Apache-2.0
#include "layout/copy_plan.hpp"

#include <algorithm>

namespace mc {

CopyPlan::CopyPlan(Cursor source, Cursor destination)
    : source_(std::move(source)), destination_(std::move(destination)) {}

bool CopyPlan::Window::refill() {
    at = 0;
    end = cursor.next(segments);
    return end > 0;
}

// The segments of one side never touch, so neither do two successive spans on both sides: each span
// ends where a segment does. Nothing is left to merge.
std::size_t CopyPlan::next(std::span<Span> out) {
    std::size_t count = 0;
    while (count < out.size()) {
        if (source_.at == source_.end && !source_.refill()) break;
        if (destination_.at == destination_.end && !destination_.refill()) break;
        Segment& from = source_.segments[source_.at];
        Segment& to = destination_.segments[destination_.at];
        const std::uint64_t length = std::min(from.length, to.length);
        out[count++] = {from.address, to.address, length};
        from.address += length;
        from.length -= length;
        to.address += length;
        to.length -= length;
        if (from.length == 0) ++source_.at;
        if (to.length == 0) ++destination_.at;
    }
    return count;
}

}  // namespace mc
