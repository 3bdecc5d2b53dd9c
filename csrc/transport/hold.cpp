// SPDX-License-Identifier: Apache-2.0
#include "transport/hold.hpp"

#include <utility>

namespace mc {

Status pages_taken_back() { return {Code::aborted, "the pages were taken back during the copy"}; }

bool Hold::enter(std::uint32_t epoch) {
    std::uint64_t state = state_.load(std::memory_order_relaxed);
    do {
        if ((state & kClosed) != 0 || (state >> kEpochShift) != epoch) return false;
    } while (!state_.compare_exchange_weak(state, state + 1, std::memory_order_acq_rel,
                                           std::memory_order_relaxed));
    return true;
}

void Hold::leave() {
    const std::uint64_t before = state_.fetch_sub(1, std::memory_order_acq_rel);
    if ((before & kAwaited) != 0 && (before & kCount) == 1) run_waiting();
}

bool Hold::current(std::uint32_t epoch) const {
    const std::uint64_t state = state_.load(std::memory_order_acquire);
    return (state & kClosed) == 0 && (state >> kEpochShift) == epoch;
}

void Hold::advance(std::uint32_t epoch) {
    std::uint64_t state = state_.load(std::memory_order_relaxed);
    std::uint64_t next = 0;
    do {
        next = (std::uint64_t{epoch} << kEpochShift) | (state & UINT32_MAX);
    } while (!state_.compare_exchange_weak(state, next, std::memory_order_acq_rel,
                                           std::memory_order_relaxed));
}

void Hold::close(std::function<void()> on_idle) {
    await_idle(kClosed | kAwaited, std::move(on_idle));
}

void Hold::when_drained(std::function<void()> on_idle) { await_idle(kAwaited, std::move(on_idle)); }

void Hold::await_idle(std::uint64_t flags, std::function<void()> on_idle) {
    {
        // Registered before the flag is set: whoever leaves last after that finds it.
        const std::lock_guard lock(mutex_);
        waiting_.push_back(std::move(on_idle));
        state_.fetch_or(flags, std::memory_order_acq_rel);
    }
    run_waiting();
}

void Hold::run_waiting() {
    std::vector<std::function<void()>> ready;
    {
        const std::lock_guard lock(mutex_);
        if ((state_.load(std::memory_order_acquire) & kCount) != 0) return;
        state_.fetch_and(~kAwaited, std::memory_order_acq_rel);
        ready.swap(waiting_);
    }
    for (const auto& on_idle : ready) on_idle();
}

}  // namespace mc
