// SPDX-License-Identifier: Apache-2.0
#include "transport/fault/fault_path.hpp"

#include <utility>

namespace mc {

FaultPath::FaultPath(std::unique_ptr<Path> inner, std::function<void(Status)> on_failure)
    : inner_(std::move(inner)), on_failure_(std::move(on_failure)) {}

FaultPath::~FaultPath() { close(Status(Code::aborted, "the path was taken down")); }

void FaultPath::pass() { mode_ = Mode::pass; }
void FaultPath::drop() { mode_ = Mode::drop; }
void FaultPath::delay() { mode_ = Mode::delay; }

void FaultPath::refuse(Status error) {
    mode_ = Mode::refuse;
    refusal_ = std::move(error);
}

void FaultPath::release() {
    mode_ = Mode::pass;
    for (Waiting& job : std::exchange(waiting_, {})) job.go();
}

void FaultPath::truncate_after(std::uint64_t bytes) { bytes_left_ = bytes; }

void FaultPath::kill(Status reason) {
    if (close_reason_) return;
    close(reason);
    if (on_failure_) on_failure_(std::move(reason));
}

template <typename Job>
void FaultPath::apply(Job job) {
    if (close_reason_) return job.done(*close_reason_, {});
    switch (mode_) {
        case Mode::pass: return forward(std::move(job));
        case Mode::refuse: return job.done(refusal_, {});
        case Mode::drop:
        case Mode::delay: {
            auto done = job.done;
            waiting_.push_back({[this, held = std::move(job)] { forward(held); }, std::move(done)});
        }
    }
}

template <typename Job>
void FaultPath::forward(Job job) {
    if (bytes_left_) {
        if (job.piece.length >= *bytes_left_) {
            job.piece.length = *bytes_left_;
            job.done = [this, done = std::move(job.done)](const Status&, Moved) {
                const Status cut(Code::peer_lost, "the path was cut in the middle of a job");
                done(cut, {});
                kill(cut);
            };
        }
        *bytes_left_ -= job.piece.length;
    }
    to_inner(std::move(job));
}

void FaultPath::end(GrantId grant, std::uint32_t epoch) {
    if (mode_ == Mode::pass) return inner_->end(grant, epoch);
    if (mode_ == Mode::delay) {
        waiting_.push_back({[this, grant, epoch] { inner_->end(grant, epoch); }, nullptr});
    }
}

void FaultPath::close(Status reason) {
    if (close_reason_) return;
    close_reason_ = reason;
    inner_->close(reason);
    for (const Waiting& job : std::exchange(waiting_, {})) {
        if (job.done) job.done(reason, {});
    }
}

}  // namespace mc
