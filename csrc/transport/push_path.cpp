// SPDX-License-Identifier: Apache-2.0
#include "transport/push_path.hpp"

#include <string>

namespace mc {

PushPath::PushPath(EventLoop& loop, Sinks& sinks, OnFailure on_failure, Log& log)
    : loop_(loop),
      arrival_(sinks, log),
      on_failure_(std::move(on_failure)),
      activity_(loop, [this] { step(); }) {}

void PushPath::push(Push job) {
    if (closing()) return job.done(*close_reason_, {});
    queue_.add(std::move(job));
    schedule();
}

void PushPath::pull(Pull job) {
    job.done(Status(Code::unsupported,
                    "a " + std::string(to_string(kind())) + " path pushes; it cannot pull"),
             {});
}

void PushPath::end(GrantId grant, std::uint32_t epoch) {
    if (closing()) return;
    queue_.add_end(grant, epoch);
    schedule();
}

void PushPath::step() {
    if (closing()) return;
    stepping_ = true;
    Status status = advance();
    report();
    stepping_ = false;
    if (closing()) return shut();
    if (!status) fail(std::move(status));
}

void PushPath::fail(Status reason) {
    if (closing()) return;
    close_reason_ = reason;
    shut();
    if (on_failure_) on_failure_(std::move(reason));
}

void PushPath::close(Status reason) {
    if (closing()) return;
    close_reason_ = std::move(reason);
    if (!stepping_) shut();  // else at the end of the step that called
}

void PushPath::shut() {
    if (shut_) return;
    shut_ = true;
    release();
    for (PushQueue::Finished& job : queue_.take_all()) finish(std::move(job), *close_reason_);
    report();
}

void PushPath::finish(PushQueue::Finished job, Status status) {
    if (!status) job.moved = {};
    finished_.emplace_back(std::move(job), std::move(status));
}

void PushPath::report() {
    // A callback may finish further jobs (by close()); those are in the next round.
    while (!finished_.empty()) {
        auto finished = std::exchange(finished_, {});
        for (auto& [job, status] : finished) job.done(std::move(status), job.moved);
    }
}

}  // namespace mc
