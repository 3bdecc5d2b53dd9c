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
        // Until one window is used up; copies of both fronts stay in registers.
        Segment from = source_.segments[source_.at];
        Segment to = destination_.segments[destination_.at];
        while (count < out.size()) {
            const std::uint64_t length = std::min(from.length, to.length);
            out[count++] = {from.address, to.address, length};
            const bool from_used = source_.use(from, length);
            const bool to_used = destination_.use(to, length);
            if (from_used || to_used) break;
        }
        source_.keep(from);
        destination_.keep(to);
    }
    return count;
}

}  // namespace mc
