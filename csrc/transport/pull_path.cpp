// SPDX-License-Identifier: Apache-2.0
#include "transport/pull_path.hpp"

#include <algorithm>
#include <string>
#include <utility>

namespace mc {
PullPath::PullPath(EventLoop& loop, OnFailure on_failure)
    : on_failure_(std::move(on_failure)), activity_(loop, [this] { step(); }), spans_(kStepSpans) {}

void PullPath::push(Push job) {
    job.done(Status(Code::unsupported,
                    "a " + std::string(to_string(kind())) + " path pulls; it cannot push"),
             {});
}

void PullPath::pull(Pull job) {
    if (close_reason_) return job.done(*close_reason_, {});
    outstanding_.fetch_add(job.piece.length, std::memory_order_relaxed);
    jobs_.push_back({std::move(job), {}});
    activity_.schedule();
}

// What is pulled needs no end in-band: the reader knows when it has read all.
void PullPath::end(GrantId, std::uint32_t) {}

void PullPath::step() {
    if (jobs_.empty()) return;
    Job job = std::move(jobs_.front());
    jobs_.pop_front();
    const std::uint64_t before = job.moved.bytes;
    Status status = advance(job);
    outstanding_.fetch_sub(job.moved.bytes - before, std::memory_order_relaxed);
    const bool lost = status.code() == Code::peer_lost;
    if (status && job.moved.bytes < job.pull.piece.length) {
        jobs_.push_back(std::move(job));
    } else {
        finish(std::move(job), status);
    }
    if (lost) return fail(std::move(status));
    if (!jobs_.empty()) activity_.schedule();
}

// One step of the job, under its hold.
Status PullPath::advance(Job& job) {
    const Pull& pull = job.pull;
    std::uint64_t bytes = 0;
    const std::span<const Span> spans = next_spans(job, bytes);
    {
        const HoldVisit visit(*pull.hold, pull.piece.epoch);
        if (!visit) return pages_taken_back();
        MC_RETURN_IF_ERROR(read(pull, spans));
    }
    if (!pull.hold->current(pull.piece.epoch)) return pages_taken_back();
    job.moved.bytes += bytes;
    job.moved.spans += spans.size();
    return {};
}

// The job's next spans, cut where the step is full. Planning starts anew where the last step ended:
// that costs next to nothing, and a waiting job keeps no buffer.
std::span<const Span> PullPath::next_spans(const Job& job, std::uint64_t& bytes) {
    const Piece& piece = job.pull.piece;
    const std::uint64_t offset = piece.offset + job.moved.bytes;
    const std::uint64_t length = piece.length - job.moved.bytes;
    CopyPlan plan(Cursor(job.pull.source, offset, length),
                  Cursor(job.pull.destination, offset, length));
    std::size_t count = 0;
    while (count < kStepSpans && bytes < kStepBytes) {
        const std::size_t asked = std::min(kStepSpans - count, kPlannedAtOnce);
        const std::size_t got = plan.next(std::span(spans_).subspan(count, asked));
        for (std::size_t i = 0; i < got && bytes < kStepBytes; ++i, ++count) {
            Span& span = spans_[count];
            span.length = std::min(span.length, kStepBytes - bytes);
            bytes += span.length;
        }
        if (got < asked) break;
    }
    return std::span<const Span>(spans_).first(count);
}

void PullPath::finish(Job job, Status status) {
    outstanding_.fetch_sub(job.pull.piece.length - job.moved.bytes, std::memory_order_relaxed);
    if (!status) job.moved = {};
    job.pull.done(std::move(status), job.moved);
}

void PullPath::close(Status reason) {
    if (close_reason_) return;
    close_reason_ = std::move(reason);
    for (Job& job : std::exchange(jobs_, {})) finish(std::move(job), *close_reason_);
}

void PullPath::fail(Status reason) {
    if (close_reason_) return;
    close(reason);
    if (on_failure_) on_failure_(std::move(reason));
}

}  // namespace mc
