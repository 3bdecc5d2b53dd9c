// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>

#include "transport/hold.hpp"

namespace mc {

// A word in this process's memory that tells a peer, which reads our pages without asking, whether
// it may still believe what it read: it reads the word after the bytes, and compares. Words are never
// unmapped and their values never come back, so that a late reader never mistakes one for another.
class Guard {
  public:
    // `hold` is of the pages that the guard stands for. Readers in this process, whose copies could
    // fault, enter it; see find_hold().
    explicit Guard(std::shared_ptr<Hold> hold = nullptr);
    ~Guard();  // revokes
    Guard(const Guard&) = delete;
    Guard& operator=(const Guard&) = delete;

    [[nodiscard]] std::uint64_t address() const;
    // What the word holds until it is revoked.
    [[nodiscard]] std::uint64_t value() const { return value_; }
    // From now on nobody who has yet to compare will find value(). Thread-safe, idempotent.
    void revoke();

    // For readers in this process: the hold of the guard with this address and value; null when there
    // is none, or no longer.
    static std::shared_ptr<Hold> find_hold(std::uint64_t address, std::uint64_t value);

  private:
    std::uint64_t slot_;
    std::uint64_t value_;
};

}  // namespace mc
