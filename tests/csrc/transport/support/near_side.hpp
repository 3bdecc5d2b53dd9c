// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <future>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <utility>
#include <vector>

#include "core/log.hpp"
#include "transport/path.hpp"
#include "transport/support/far_side.hpp"

namespace mc::testing {

// What happened at the receiver, to be waited for.
class Events {
  public:
    void note(const std::function<void()>& change) {
        const std::lock_guard lock(mutex_);
        change();
        changed_.notify_all();
    }
    // Waits for something that a correct path makes true sooner or later; false if it did not
    // within the time that only a stuck path needs.
    bool wait(const std::function<bool()>& condition) {
        std::unique_lock lock(mutex_);
        return changed_.wait_for(lock, std::chrono::seconds(60), condition);
    }

  private:
    std::mutex mutex_;
    std::condition_variable changed_;
};

// The receiver's end of one grant: any number of parts.
class TestSink final : public Sink {
  public:
    TestSink(Events& events, std::vector<Pages*> parts)
        : events_(events), parts_(std::move(parts)) {}

    Result<std::shared_ptr<const Slice>> slice(std::uint16_t part, TokenRange) override {
        if (part >= parts_.size()) return Status(Code::protocol, "no such part");
        return parts_[part]->slice();
    }
    Hold& hold() override { return hold_; }
    void placed(const Piece& piece, Moved moved) override {
        events_.note([&] {
            pieces.push_back(piece);
            bytes += moved.bytes;
        });
        if (on_placed) on_placed(piece);
    }

    std::vector<Piece> pieces;  // read under Events::wait, or when nothing moves
    std::uint64_t bytes = 0;
    std::function<void(const Piece&)> on_placed;

  private:
    Events& events_;
    std::vector<Pages*> parts_;
    Hold hold_;
};

class TestSinks final : public Sinks {
  public:
    struct End {
        GrantId grant;
        std::uint32_t epoch;
        std::uint64_t bytes;
        std::uint64_t placed_before;  // of this grant, when the end was reported
    };

    explicit TestSinks(Events& events) : events_(events) {}

    std::shared_ptr<TestSink> add(GrantId grant, std::vector<Pages*> parts) {
        auto sink = std::make_shared<TestSink>(events_, std::move(parts));
        events_.note([&] { sinks_[grant] = sink; });
        return sink;
    }
    std::shared_ptr<Sink> find(GrantId grant) override {
        std::shared_ptr<Sink> found;
        events_.note([&] {
            const auto entry = sinks_.find(grant);
            if (entry != sinks_.end()) found = entry->second;
        });
        return found;
    }
    void ended(GrantId grant, std::uint32_t epoch, std::uint64_t bytes) override {
        events_.note([&] {
            const auto entry = sinks_.find(grant);
            const std::uint64_t placed = entry == sinks_.end() ? 0 : entry->second->bytes;
            ends.push_back({grant, epoch, bytes, placed});
        });
    }

    std::vector<End> ends;

  private:
    Events& events_;
    std::map<GrantId, std::shared_ptr<TestSink>> sinks_;
};

// Runs `work` in the loop's thread and waits for it.
inline void in_loop(EventLoop& loop, const std::function<void()>& work) {
    std::promise<void> done;
    loop.post([&] {
        work();
        done.set_value();
    });
    done.get_future().wait();
}

}  // namespace mc::testing
