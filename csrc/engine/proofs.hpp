// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <mutex>
#include <optional>
#include <utility>

#include "protocol/actions.hpp"

namespace mc {

// Proofs to be made or checked, for a thread of the application's that holds the keys: this library
// holds none, and does no cryptography. Thread-safe.
class ProofQueue {
  public:
    using Task = std::pair<SessionId, AuthenticationRequest>;

    void add(SessionId session, AuthenticationRequest request) {
        {
            const std::lock_guard lock(mutex_);
            tasks_.emplace_back(session, std::move(request));
        }
        added_.notify_one();
    }
    // Waits for the next one; nothing after close().
    std::optional<Task> next() {
        std::unique_lock lock(mutex_);
        added_.wait(lock, [&] { return closed_ || !tasks_.empty(); });
        if (closed_) return std::nullopt;
        Task task = std::move(tasks_.front());
        tasks_.pop_front();
        return task;
    }
    void close() {
        {
            const std::lock_guard lock(mutex_);
            closed_ = true;
        }
        added_.notify_all();
    }

  private:
    std::mutex mutex_;
    std::condition_variable added_;
    std::deque<Task> tasks_;
    bool closed_ = false;
};

}  // namespace mc
