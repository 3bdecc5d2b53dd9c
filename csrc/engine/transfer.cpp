// SPDX-License-Identifier: Apache-2.0
#include "engine/transfer.hpp"

#include <algorithm>
#include <thread>

namespace mc {

std::uint32_t SourcePages::take_back() {
    const std::lock_guard lock(mutex_);
    ++epoch_;
    guard_.advance(epoch_);
    hold_->advance(epoch_);
    return epoch_;
}

void SourcePages::close(std::function<void()> on_idle) {
    guard_.revoke();
    hold_->close(std::move(on_idle));
}

void Completions::add(std::shared_ptr<Transfer> transfer, const Status& status) {
    Outcome outcome;
    outcome.status = status;
    std::uint64_t most = 0;
    for (std::size_t i = 0; i < kPathKinds; ++i) {
        const std::uint64_t bytes = transfer->bytes[i].load(std::memory_order_relaxed);
        outcome.bytes += bytes;
        if (bytes > most) {
            most = bytes;
            outcome.path = static_cast<PathKind>(i);
        }
    }
    outcome.spans = transfer->spans.load(std::memory_order_relaxed);
    outcome.seconds = to_seconds(now() - transfer->started);
    {
        const std::lock_guard lock(mutex_);
        transfer->outcome = std::move(outcome);
        fresh_.push_back(std::move(transfer));
    }
    added_.notify_all();
}

std::vector<std::shared_ptr<Transfer>> Completions::take() {
    const std::lock_guard lock(mutex_);
    return std::exchange(fresh_, {});
}

std::optional<Outcome> Completions::wait(const Transfer& transfer, Duration timeout) {
    // An unbounded timeout would overflow the clock's type.
    const Duration bounded =
        std::clamp<Duration>(timeout, Duration::zero(), std::chrono::hours(24 * 365));
    const Instant began = now();
    const Instant sleeps = began + std::min(bounded, busy_poll_);
    std::unique_lock lock(mutex_);
    while (!transfer.outcome && now() < sleeps) {
        lock.unlock();
        std::this_thread::yield();
        lock.lock();
    }
    added_.wait_until(lock, began + bounded, [&] { return transfer.outcome.has_value(); });
    return transfer.outcome;
}

std::optional<Outcome> Completions::outcome(const Transfer& transfer) {
    const std::lock_guard lock(mutex_);
    return transfer.outcome;
}

void Completions::add_match(Transfer& transfer, std::string address,
                            std::optional<std::uint32_t> first_token) {
    const std::lock_guard lock(mutex_);
    transfer.matched.emplace_back(std::move(address), first_token);
}

Matched Completions::matched(const Transfer& transfer) {
    const std::lock_guard lock(mutex_);
    return transfer.matched;
}

}  // namespace mc
