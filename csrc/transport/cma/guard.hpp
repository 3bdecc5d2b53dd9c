// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>

#include "transport/hold.hpp"

namespace mc {

// A word in this process's memory that tells a peer, which reads our pages without asking, whether
// it may still believe what it read: it reads the word after the bytes, and compares. Words are
// never unmapped, and each guard's values are its own, so that a late reader never takes one for
// another.
class Guard {
  public:
    // `hold` is of the pages that the guard stands for. Readers in this process, whose copies from
    // pages that were handed back could fault, enter it; see find_hold(). Begins with epoch 0.
    explicit Guard(std::shared_ptr<Hold> hold);
    ~Guard();  // revokes
    Guard(const Guard&) = delete;
    Guard& operator=(const Guard&) = delete;

    [[nodiscard]] std::uint64_t address() const;
    // What the word holds while the pages are those of `epoch`.
    [[nodiscard]] std::uint64_t expected(std::uint32_t epoch) const { return first_value_ + epoch; }
    // Pages were taken back: what is read from now on belongs to `epoch`. Thread-safe.
    void advance(std::uint32_t epoch);
    // From now on nobody who has yet to compare finds what it expects. Thread-safe, idempotent.
    void revoke();

    // For readers in this process: the hold of the guard that lies at `address` and holds
    // `expected`; null when there is none, or no longer.
    static std::shared_ptr<Hold> find_hold(std::uint64_t address, std::uint64_t expected);

  private:
    std::atomic<std::uint64_t>* word_;
    std::uint64_t first_value_;
};

}  // namespace mc
