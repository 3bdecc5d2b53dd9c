// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <cstddef>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "transport/event_loop.hpp"

namespace mc {

// A fixed number of event loops that start when they are first needed and are handed out in turn.
// Thread-safe.
class Loops {
  public:
    Loops(std::string name, std::size_t count) : name_(std::move(name)), loops_(count) {}

    Result<EventLoop*> next() {
        const std::lock_guard lock(mutex_);
        std::unique_ptr<EventLoop>& loop = loops_[turn_];
        if (!loop) {
            auto fresh = std::make_unique<EventLoop>();
            MC_RETURN_IF_ERROR(fresh->start(name_ + std::to_string(turn_)));
            loop = std::move(fresh);
        }
        EventLoop* chosen = loop.get();
        turn_ = (turn_ + 1) % loops_.size();
        return chosen;
    }
    // Runs what was posted and ends the threads.
    void stop() {
        const std::lock_guard lock(mutex_);
        for (const auto& loop : loops_) {
            if (loop) loop->stop();
        }
    }

  private:
    const std::string name_;
    std::mutex mutex_;
    std::vector<std::unique_ptr<EventLoop>> loops_;
    std::size_t turn_ = 0;
};

}  // namespace mc
