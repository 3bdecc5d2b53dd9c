// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <map>
#include <mutex>
#include <span>

#include "core/status.hpp"
#include "layout/pool.hpp"
#include "layout/slice.hpp"

namespace mc {

// Memory that one-sided transfers may use, here and from peers. Pools are never in it. Thread-safe.
class MemoryTable {
  public:
    struct Region {
        std::uint64_t address = 0;
        std::uint64_t bytes = 0;
        MemoryKind memory;
        bool remote_read = false;
        bool remote_write = false;
    };
    // Fails when the region is empty, wraps around, or overlaps a registered one.
    Status add(const Region& region);
    Status remove(std::uint64_t address);

    enum class Access : std::uint8_t { local, remote_read, remote_write };
    // Whether each segment lies in one region that allows the access.
    Status check(std::span<const Segment> segments, Access access) const;

  private:
    mutable std::mutex mutex_;
    std::map<std::uint64_t, Region> regions_;  // by address
};

}  // namespace mc
