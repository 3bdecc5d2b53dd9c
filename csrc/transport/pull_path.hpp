// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "layout/copy_plan.hpp"
#include "transport/activity.hpp"
#include "transport/event_loop.hpp"
#include "transport/path.hpp"

namespace mc {

// What the pull paths have in common: jobs take turns in steps of bounded size, so that the loop
// stays responsive and a short job does not wait behind a long one; the destination's hold is
// entered for one step at a time. Callbacks may call pull() and close(), but not destroy the path.
class PullPath : public Path {
  public:
    void push(Push job) final;
    void pull(Pull job) final;
    void end(GrantId grant, std::uint32_t epoch) final;
    [[nodiscard]] std::uint64_t outstanding() const final {
        return outstanding_.load(std::memory_order_relaxed);
    }
    void close(Status reason) override;

  protected:
    using OnFailure = std::function<void(Status)>;

    PullPath(EventLoop& loop, OnFailure on_failure);

    // Copies the spans, and succeeds only if the guard still held after the last byte. `aborted`
    // fails this job; `peer_lost` ends the path.
    virtual Status read(const Pull& job, std::span<const Span> spans) = 0;

    void fail(Status reason);

  private:
    struct Job {
        Pull pull;
        Moved moved;
    };

    void step();
    Status advance(Job& job);
    std::span<const Span> next_spans(const Job& job, std::uint64_t& bytes);
    void finish(Job job, Status status);

    // A step is a few hundred microseconds of copying.
    static constexpr std::uint64_t kStepBytes = 4U << 20;
    static constexpr std::size_t kStepSpans = 1023;  // with the guard's, what one system call takes
    static constexpr std::size_t kPlannedAtOnce = 64;  // so that few are planned in vain

    OnFailure on_failure_;
    Activity activity_;
    std::deque<Job> jobs_;  // the first has its turn
    std::vector<Span> spans_;
    std::atomic<std::uint64_t> outstanding_{0};
    std::optional<Status> close_reason_;
};

}  // namespace mc
