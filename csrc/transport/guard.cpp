// SPDX-License-Identifier: Apache-2.0
#include "transport/guard.hpp"

#include <array>
#include <atomic>
#include <cstddef>
#include <cstring>
#include <deque>
#include <mutex>
#include <unordered_map>
#include <utility>
#include <vector>

#include "core/ids.hpp"

namespace mc {
namespace {

struct Word {
    std::atomic<std::uint64_t> value{0};
    static_assert(std::atomic<std::uint64_t>::is_always_lock_free);
    static_assert(sizeof(std::atomic<std::uint64_t>) == sizeof(std::uint64_t));
};

// All guard words of the process. It is never destroyed: peers may read at any time.
class Slab {
  public:
    static Slab& instance() {
        static Slab* const slab = new Slab();
        return *slab;
    }

    std::pair<std::uint64_t, std::uint64_t> allocate(std::shared_ptr<Hold> hold) {
        const std::lock_guard lock(mutex_);
        if (free_.empty()) {
            free_.push_back(words_.size());
            words_.emplace_back();
        }
        const std::uint64_t slot = free_.back();
        free_.pop_back();
        // The random start keeps the values of another process, with a reused pid, apart from ours.
        const std::uint64_t value = ++next_value_;
        words_[slot].value.store(value);
        holds_[address_of(slot)] = {value, std::move(hold)};
        return {slot, value};
    }

    void release(std::uint64_t slot) {
        revoke(slot);
        const std::lock_guard lock(mutex_);
        free_.push_back(slot);
    }

    void revoke(std::uint64_t slot) {
        const std::lock_guard lock(mutex_);
        words_[slot].value.store(0);
        holds_.erase(address_of(slot));
    }

    std::uint64_t address(std::uint64_t slot) {
        const std::lock_guard lock(mutex_);
        return address_of(slot);
    }

    std::shared_ptr<Hold> find_hold(std::uint64_t address, std::uint64_t value) {
        const std::lock_guard lock(mutex_);
        const auto found = holds_.find(address);
        if (found == holds_.end() || found->second.value != value) return nullptr;
        return found->second.hold;
    }

  private:
    struct Held {
        std::uint64_t value;
        std::shared_ptr<Hold> hold;
    };

    Slab() {
        std::memcpy(&next_value_, Token::random().bytes.data(), sizeof(next_value_));
        next_value_ >>= 1;  // far from wrapping to 0, which means revoked
    }

    std::uint64_t address_of(std::uint64_t slot) {
        return reinterpret_cast<std::uint64_t>(&words_[slot].value);
    }

    std::mutex mutex_;
    std::uint64_t next_value_ = 0;
    std::deque<Word> words_;  // grows without moving
    std::vector<std::uint64_t> free_;
    std::unordered_map<std::uint64_t, Held> holds_;  // by address
};

}  // namespace

Guard::Guard(std::shared_ptr<Hold> hold) {
    std::tie(slot_, value_) = Slab::instance().allocate(std::move(hold));
}

Guard::~Guard() { Slab::instance().release(slot_); }

std::uint64_t Guard::address() const { return Slab::instance().address(slot_); }

void Guard::revoke() { Slab::instance().revoke(slot_); }

std::shared_ptr<Hold> Guard::find_hold(std::uint64_t address, std::uint64_t value) {
    return Slab::instance().find_hold(address, value);
}

}  // namespace mc
