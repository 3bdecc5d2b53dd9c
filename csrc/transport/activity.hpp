// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <memory>
#include <utility>

#include "transport/event_loop.hpp"

namespace mc {

// A step of work that an EventLoop runs when asked to, at most once for each of its rounds: long
// work asks again at its end and so leaves room for others. Belongs to the loop's thread;
// destroying it there takes back what was asked for.
class Activity {
  public:
    Activity(EventLoop& loop, std::function<void()> step)
        : loop_(loop), state_(std::make_shared<State>(State{std::move(step), false})) {}

    void schedule() {
        if (state_->scheduled) return;
        state_->scheduled = true;
        loop_.post([weak = std::weak_ptr<State>(state_)] {
            const std::shared_ptr<State> state = weak.lock();
            if (!state) return;
            state->scheduled = false;
            state->step();
        });
    }

  private:
    struct State {
        std::function<void()> step;
        bool scheduled;
    };

    EventLoop& loop_;
    std::shared_ptr<State> state_;
};

}  // namespace mc
