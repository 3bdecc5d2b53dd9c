// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <mutex>
#include <vector>

#include "core/status.hpp"

namespace mc {

// Guards the pages of one end of a transfer against being touched after they were handed back.
// Every thread that reads or writes pages does so between enter() and leave(). close() lets nobody
// in any more; its callback runs as soon as nobody is inside: then, and only then, pages go back.
// advance() starts a new epoch: whoever entered under the old one can see that with current().
// Thread-safe. Entering and leaving cost one uncontended atomic operation each.
class Hold {
  public:
    // True: the caller may touch the pages until leave(). False: closed, or the epoch is not the
    // present one; the caller must not touch them and does not leave().
    [[nodiscard]] bool enter(std::uint32_t epoch);
    void leave();

    [[nodiscard]] bool current(std::uint32_t epoch) const;  // open and still in this epoch
    void advance(std::uint32_t epoch);
    // Calls on_idle exactly once, maybe at once and maybe from another thread's leave().
    void close(std::function<void()> on_idle);
    // As close(), but the hold stays open: calls on_idle as soon as nobody is inside, which, called
    // after advance(), means that nobody is inside under an earlier epoch. The callers do not start
    // work of the new epoch before that, so a busy hold cannot put it off for ever.
    void when_drained(std::function<void()> on_idle);

  private:
    void await_idle(std::uint64_t flags, std::function<void()> on_idle);
    void run_waiting();

    // Present epoch, whether it is closed, whether somebody waits until nobody is inside, and the
    // number of those inside: one word, so that one operation decides.
    static constexpr std::uint64_t kCount = (std::uint64_t{1} << 30) - 1;
    static constexpr std::uint64_t kAwaited = std::uint64_t{1} << 30;
    static constexpr std::uint64_t kClosed = std::uint64_t{1} << 31;
    static constexpr unsigned kEpochShift = 32;
    std::atomic<std::uint64_t> state_{0};

    std::mutex mutex_;  // guards waiting_ and the flag kAwaited
    std::vector<std::function<void()>> waiting_;
};

// enter() for the length of a scope.
class HoldVisit {
  public:
    HoldVisit(Hold& hold, std::uint32_t epoch) : hold_(hold.enter(epoch) ? &hold : nullptr) {}
    ~HoldVisit() {
        if (hold_ != nullptr) hold_->leave();
    }
    HoldVisit(const HoldVisit&) = delete;
    HoldVisit& operator=(const HoldVisit&) = delete;

    explicit operator bool() const { return hold_ != nullptr; }  // whether the pages may be touched

  private:
    Hold* const hold_;
};

// Why a copy ended that found its pages closed.
Status pages_taken_back();

}  // namespace mc
