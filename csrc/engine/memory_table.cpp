// SPDX-License-Identifier: Apache-2.0
#include "engine/memory_table.hpp"

#include <string>

namespace mc {

namespace {

bool allows(const MemoryTable::Region& region, MemoryTable::Access access) {
    switch (access) {
        case MemoryTable::Access::local: return true;
        case MemoryTable::Access::remote_read: return region.remote_read;
        case MemoryTable::Access::remote_write: return region.remote_write;
    }
    return false;
}

}  // namespace

Status MemoryTable::add(const Region& region) {
    if (region.bytes == 0 || region.address == 0 || region.bytes > UINT64_MAX - region.address) {
        return {Code::invalid_argument,
                "memory to register must have a length and lie within the address space"};
    }
    const std::lock_guard lock(mutex_);
    const auto next = regions_.lower_bound(region.address);
    const bool overlaps_next =
        next != regions_.end() && next->first < region.address + region.bytes;
    const bool overlaps_previous = next != regions_.begin() && [&] {
        const Region& previous = std::prev(next)->second;
        return previous.address + previous.bytes > region.address;
    }();
    if (overlaps_next || overlaps_previous) {
        return {Code::invalid_argument,
                "memory to register overlaps memory that is registered already"};
    }
    regions_[region.address] = region;
    return {};
}

Status MemoryTable::remove(std::uint64_t address) {
    const std::lock_guard lock(mutex_);
    if (regions_.erase(address) == 0)
        return {Code::invalid_argument, "no memory is registered at this address"};
    return {};
}

Status MemoryTable::check(std::span<const Segment> segments, Access access) const {
    const std::lock_guard lock(mutex_);
    const Region* last = nullptr;  // most lists stay within one region
    for (const Segment& segment : segments) {
        const bool in_last = last != nullptr && segment.address >= last->address &&
                             segment.length <= last->bytes &&
                             segment.address - last->address <= last->bytes - segment.length;
        if (in_last) continue;
        const auto next = regions_.upper_bound(segment.address);
        const Region* region = next == regions_.begin() ? nullptr : &std::prev(next)->second;
        const bool inside = region != nullptr && segment.length <= region->bytes &&
                            segment.address - region->address <= region->bytes - segment.length;
        if (!inside || !allows(*region, access)) {
            return {Code::invalid_argument,
                    std::to_string(segment.length) +
                        " bytes of a list do not lie in memory registered " +
                        (access == Access::local         ? "here"
                         : access == Access::remote_read ? "with remote='r'"
                                                         : "with remote='w'") +
                        "; call register_memory first"};
        }
        last = region;
    }
    return {};
}

}  // namespace mc
