// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <mutex>

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
    // As close(), but the hold stays open: calls on_idle once nobody is inside under an epoch
    // before `epoch` (after advance(epoch)). At most one such wait at a time.
    void when_drained(std::function<void()> on_idle);
};

}  // namespace mc
