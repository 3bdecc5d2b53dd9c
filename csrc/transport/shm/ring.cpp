// SPDX-License-Identifier: Apache-2.0
#include "transport/shm/ring.hpp"

namespace mc {
namespace {

Status impossible() {
    return {Code::protocol, "the peer wrote an impossible position to the ring"};
}

bool take_announcement(std::atomic<std::uint32_t>& waits) {
    return waits.load(std::memory_order_seq_cst) != 0 && waits.exchange(0) != 0;
}

}  // namespace

Result<std::size_t> RingProducer::room() const {
    // An impossible position is one that is ahead of ours, then `used` wraps, or too far behind.
    const std::uint64_t used = written_ - ring_.control->taken.load(std::memory_order_acquire);
    if (used > ring_.capacity) return impossible();
    return ring_.capacity - used;
}

void RingProducer::publish(std::size_t bytes) {
    written_ += bytes;
    ring_.control->written.store(written_, std::memory_order_seq_cst);
}

bool RingProducer::consumer_sleeps() { return take_announcement(ring_.control->consumer_waits); }

bool RingProducer::sleep() {
    ring_.control->producer_waits.store(1, std::memory_order_seq_cst);
    const std::uint64_t used = written_ - ring_.control->taken.load(std::memory_order_seq_cst);
    return used > ring_.capacity / 2 && used <= ring_.capacity;  // room() reports the impossible
}

Result<std::span<const std::uint8_t>> RingConsumer::readable() {
    const std::uint64_t written = ring_.control->written.load(std::memory_order_acquire);
    const std::uint64_t bytes = written - taken_;
    if (bytes > ring_.capacity) return impossible();
    seen_written_ = written;
    return std::span<const std::uint8_t>(ring_.data + (taken_ & (ring_.capacity - 1)), bytes);
}

bool RingConsumer::take(std::size_t bytes) {
    taken_ += bytes;
    ring_.control->taken.store(taken_, std::memory_order_seq_cst);
    return seen_written_ - taken_ <= ring_.capacity / 2 &&
           take_announcement(ring_.control->producer_waits);
}

bool RingConsumer::sleep() {
    ring_.control->consumer_waits.store(1, std::memory_order_seq_cst);
    return ring_.control->written.load(std::memory_order_seq_cst) == taken_;
}

}  // namespace mc
