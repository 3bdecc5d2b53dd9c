// SPDX-License-Identifier: Apache-2.0
#include "transport/cma/guard.hpp"

#include <cstring>
#include <deque>
#include <mutex>
#include <unordered_map>
#include <utility>
#include <vector>

#include "core/ids.hpp"

namespace mc {
namespace {

using Word = std::atomic<std::uint64_t>;
static_assert(Word::is_always_lock_free && sizeof(Word) == sizeof(std::uint64_t));

constexpr std::uint64_t kRevoked = 0;
constexpr unsigned kEpochBits = 32;

// All guard words of the process. It is never destroyed: peers may read at any time.
class Slab {
  public:
    static Slab& instance() {
        static Slab* const slab = new Slab();
        return *slab;
    }

    std::pair<Word*, std::uint64_t> take(std::shared_ptr<Hold> hold) {
        const std::lock_guard lock(mutex_);
        if (free_.empty()) free_.push_back(&words_.emplace_back(kRevoked));
        Word* const word = free_.back();
        free_.pop_back();
        if (++generation_ == 0) ++generation_;  // values of generation 0 could be kRevoked
        const std::uint64_t value = std::uint64_t{generation_} << kEpochBits;
        word->store(value);
        holds_[reinterpret_cast<std::uint64_t>(word)] = std::move(hold);
        return {word, value};
    }

    void give_back(Word* word) {
        const std::lock_guard lock(mutex_);
        word->store(kRevoked);
        holds_.erase(reinterpret_cast<std::uint64_t>(word));
        free_.push_back(word);
    }

    std::shared_ptr<Hold> find_hold(std::uint64_t address, std::uint64_t expected) {
        const std::lock_guard lock(mutex_);
        const auto found = holds_.find(address);
        if (found == holds_.end()) return nullptr;
        return reinterpret_cast<Word*>(address)->load() == expected ? found->second : nullptr;
    }

  private:
    // A random start keeps our values apart from those of another process that has the same number
    // and address later on.
    Slab() {
        const Token random = Token::random();
        std::memcpy(&generation_, random.bytes.data(), sizeof(generation_));
    }

    std::mutex mutex_;
    std::uint32_t generation_ = 0;
    std::deque<Word> words_;  // grows without moving
    std::vector<Word*> free_;
    std::unordered_map<std::uint64_t, std::shared_ptr<Hold>> holds_;  // by the word's address
};

}  // namespace

Guard::Guard(std::shared_ptr<Hold> hold) {
    std::tie(word_, first_value_) = Slab::instance().take(std::move(hold));
}

Guard::~Guard() { Slab::instance().give_back(word_); }

std::uint64_t Guard::address() const { return reinterpret_cast<std::uint64_t>(word_); }

void Guard::advance(std::uint32_t epoch) {
    std::uint64_t value = word_->load();
    // A revoked guard stays revoked.
    while (value != kRevoked && !word_->compare_exchange_weak(value, expected(epoch))) {
    }
}

void Guard::revoke() { word_->store(kRevoked); }

std::shared_ptr<Hold> Guard::find_hold(std::uint64_t address, std::uint64_t expected) {
    return Slab::instance().find_hold(address, expected);
}

}  // namespace mc
