// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>

#include "core/status.hpp"
#include "transport/event_loop.hpp"

namespace mc {

// The shared words of one ring. Each side writes its own cache lines only. Positions count bytes
// since the beginning and never wrap.
struct RingControl {
    alignas(64) std::atomic<std::uint64_t> written;  // by the producer
    std::atomic<std::uint32_t> producer_waits;       // for room; cleared by who wakes it
    alignas(64) std::atomic<std::uint64_t> taken;    // by the consumer
    std::atomic<std::uint32_t> consumer_waits;       // for bytes
};
static_assert(std::atomic<std::uint64_t>::is_always_lock_free);
static_assert(std::atomic<std::uint32_t>::is_always_lock_free);

// One ring as this process sees it: the control words, and `capacity` bytes that are mapped twice,
// one mapping right behind the other, so that every stretch of up to `capacity` bytes is
// contiguous.
struct Ring {
    RingControl* control = nullptr;
    std::uint8_t* data = nullptr;
    std::size_t capacity = 0;  // a power of two
};

// Memory shared by two processes that holds one ring for each direction. The one that connects
// creates it; the other adopts the descriptor that it got, and believes nothing about it.
class RingMemory {
  public:
    // `capacity` (bytes of each ring) is rounded up to a power of two within the bounds below. The
    // rings lie on the NUMA node `node`, if it has room.
    static Result<std::unique_ptr<RingMemory>> create(std::size_t capacity,
                                                      std::optional<unsigned> node = {});
    // Fails with `protocol` unless the memory is sealed against resizing and of a possible size.
    static Result<std::unique_ptr<RingMemory>> adopt(FileDescriptor memory);

    ~RingMemory();
    RingMemory(const RingMemory&) = delete;
    RingMemory& operator=(const RingMemory&) = delete;

    [[nodiscard]] int descriptor() const { return memory_.get(); }
    [[nodiscard]] const Ring& to_send() const { return rings_[created_ ? 0 : 1]; }
    [[nodiscard]] const Ring& to_receive() const { return rings_[created_ ? 1 : 0]; }

    static constexpr std::size_t kSmallest = 64U << 10;
    static constexpr std::size_t kLargest = 64U << 20;

  private:
    RingMemory(FileDescriptor memory, bool created)
        : memory_(std::move(memory)), created_(created) {}
    Status map(std::size_t capacity);

    FileDescriptor memory_;
    bool created_;
    std::uint8_t* mapping_ = nullptr;
    std::size_t mapped_bytes_ = 0;
    Ring rings_[2];
};

}  // namespace mc
