// SPDX-License-Identifier: Apache-2.0
#include "bindings/baseline/ring.hpp"

#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <climits>
#include <cstdint>
#include <ctime>
#include <system_error>

namespace mc::baseline {

namespace {

constexpr std::uint32_t kSlots = 8;  // 2 MiB: enough to keep both sides busy, small enough to cache
constexpr timespec kPatience{.tv_sec = 30, .tv_nsec = 0};

// A number that one side counts up and the other side can wait for.
class Counter {
  public:
    [[nodiscard]] std::uint32_t get() const { return value_.load(std::memory_order_acquire); }

    void increment() {
        value_.fetch_add(1, std::memory_order_seq_cst);
        // seq_cst against the store in wait_while: either this sees the waiter, or it sees the
        // count.
        if (waiting_.load(std::memory_order_seq_cst) != 0) futex(FUTEX_WAKE, INT_MAX, nullptr);
    }

    // Returns once the count is no longer `seen`.
    void wait_while(std::uint32_t seen) {
        while (get() == seen) {
            waiting_.store(1, std::memory_order_seq_cst);
            const bool stalled = value_.load(std::memory_order_seq_cst) == seen &&
                                 futex(FUTEX_WAIT, seen, &kPatience) != 0 && errno == ETIMEDOUT;
            waiting_.store(0, std::memory_order_relaxed);
            if (stalled) {
                throw std::system_error(ETIMEDOUT, std::generic_category(),
                                        "the other side of the ring does not move");
            }
        }
    }

  private:
    long futex(int operation, std::uint32_t value, const timespec* timeout) {
        return syscall(SYS_futex, &value_, operation, value, timeout, nullptr, 0);
    }

    alignas(64) std::atomic<std::uint32_t> value_;
    std::atomic<std::uint32_t> waiting_;
};
static_assert(std::atomic<std::uint32_t>::is_always_lock_free);

struct Ring {
    Counter filled;   // slots that the sender has filled
    Counter emptied;  // slots that the receiver has emptied
    alignas(64) std::array<std::uint64_t, kSlots> lengths;
    alignas(4096) std::array<std::array<std::byte, kPackBytes>, kSlots> slots;
};

Ring& ring_at(std::byte* memory) { return *reinterpret_cast<Ring*>(memory); }

}  // namespace

std::size_t ring_bytes() { return sizeof(Ring); }

void send_through_ring(std::byte* memory, std::span<const Segment> segments) {
    Ring& ring = ring_at(memory);
    SegmentWalk walk(segments);
    std::uint32_t filled = ring.filled.get();
    while (walk.remaining() > 0) {
        ring.emptied.wait_while(filled - kSlots);
        const std::uint32_t slot = filled % kSlots;
        ring.lengths[slot] = walk.gather(ring.slots[slot].data(), kPackBytes);
        ring.filled.increment();
        ++filled;
    }
}

void receive_through_ring(std::byte* memory, std::span<const Segment> segments) {
    Ring& ring = ring_at(memory);
    SegmentWalk walk(segments);
    std::uint32_t emptied = ring.emptied.get();
    while (walk.remaining() > 0) {
        ring.filled.wait_while(emptied);
        const std::uint32_t slot = emptied % kSlots;
        walk.scatter(ring.slots[slot].data(), ring.lengths[slot]);
        ring.emptied.increment();
        ++emptied;
    }
}

}  // namespace mc::baseline
