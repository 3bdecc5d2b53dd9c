// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <list>
#include <mutex>
#include <thread>

namespace mc {

// Runs what may block (name resolution, connecting) on threads of its own, one for each task, so
// that a slow peer delays nobody else.
class Background {
  public:
    ~Background() { join(); }

    void run(std::function<void()> task);
    void join();  // waits for all; later tasks are dropped

  private:
    struct Worker {
        std::thread thread;
        bool finished = false;
    };

    void reap();  // with mutex_ held

    std::mutex mutex_;
    std::list<Worker> workers_;
    bool closed_ = false;
};

}  // namespace mc
