// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "core/status.hpp"
#include "transport/shm/ring_memory.hpp"

namespace mc {

// The two ends of a ring. Each keeps its own position and the capacity to itself and takes the
// other's position from the shared memory as a claim to be checked: whatever the peer writes there,
// no access leaves the ring.
//
// Sleeping: a side that finds nothing to do announces it and looks once more; the other side,
// having moved on, looks for the announcement. All four steps are sequentially consistent, so that
// at least one side sees the other's. While both are awake nobody makes a system call. A producer
// sleeps until half of the ring is free, not for every few bytes.

class RingProducer {
  public:
    explicit RingProducer(const Ring& ring) : ring_(ring) {}

    // Where up to room() bytes may be written, to be published together.
    [[nodiscard]] std::uint8_t* place() const {
        return ring_.data + (written_ & (ring_.capacity - 1));
    }
    // Free bytes; `protocol` when the peer's position is impossible.
    Result<std::size_t> room() const;
    // The next `bytes` are complete and may be read.
    void publish(std::size_t bytes);
    // Whether the consumer sleeps; who asks has to wake it.
    [[nodiscard]] bool consumer_sleeps();
    // Announces sleep; false when half of the ring is free and there is no reason to.
    [[nodiscard]] bool sleep();
    [[nodiscard]] std::size_t capacity() const { return ring_.capacity; }

  private:
    Ring ring_;
    std::uint64_t written_ = 0;
};

class RingConsumer {
  public:
    explicit RingConsumer(const Ring& ring) : ring_(ring) {}

    // What has been published and not taken; `protocol` when the peer's position is impossible. The
    // peer may still write to these bytes: copy what is to be checked.
    Result<std::span<const std::uint8_t>> readable();
    // The first `bytes` are done with. True when the producer sleeps, half of the ring is free, and
    // the caller has to wake it.
    [[nodiscard]] bool take(std::size_t bytes);
    // Announces sleep; false when there are bytes and no reason to.
    [[nodiscard]] bool sleep();
    [[nodiscard]] std::size_t capacity() const { return ring_.capacity; }

  private:
    Ring ring_;
    std::uint64_t taken_ = 0;
    std::uint64_t seen_written_ = 0;
};

}  // namespace mc
