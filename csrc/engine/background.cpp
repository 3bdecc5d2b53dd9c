// SPDX-License-Identifier: Apache-2.0
#include "engine/background.hpp"

#include <utility>

namespace mc {

void Background::run(std::function<void()> task) {
    const std::lock_guard lock(mutex_);
    if (closed_) return;
    reap();
    Worker& worker = workers_.emplace_back();
    worker.thread = std::thread([this, &worker, work = std::move(task)] {
        work();
        const std::lock_guard done(mutex_);
        worker.finished = true;
    });
}

void Background::reap() {
    for (auto it = workers_.begin(); it != workers_.end();) {
        if (it->finished) {
            it->thread.join();
            it = workers_.erase(it);
        } else {
            ++it;
        }
    }
}

void Background::join() {
    std::list<Worker> rest;
    {
        const std::lock_guard lock(mutex_);
        closed_ = true;
        rest.splice(rest.begin(), workers_);
    }
    for (Worker& worker : rest) worker.thread.join();
}

}  // namespace mc
