// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <optional>
#include <utility>
#include <vector>

#include "core/log.hpp"
#include "transport/activity.hpp"
#include "transport/arrival.hpp"
#include "transport/event_loop.hpp"
#include "transport/path.hpp"
#include "transport/push_queue.hpp"

namespace mc {

using OnFailure = std::function<void(Status)>;

// What the push paths have in common: the queue of jobs, the arriving batches, and the rules about
// who is called when. Work is done in steps of the loop. Callbacks of jobs run at the end of a
// step, so that they may call push(), end() and close(); nobody may destroy the path in a callback.
class PushPath : public Path {
  public:
    void push(Push job) final;
    void pull(Pull job) final;
    void end(GrantId grant, std::uint32_t epoch) final;
    [[nodiscard]] std::uint64_t outstanding() const final { return queue_.outstanding(); }
    void close(Status reason) final;

  protected:
    PushPath(EventLoop& loop, Sinks& sinks, OnFailure on_failure, Log& log);

    // Sends and receives what can be sent and received now, at most about kStepBytes each way, and
    // arranges to be called again. A failure ends the path.
    virtual Status advance() = 0;
    // Stops watching and closes the descriptors; called once.
    virtual void release() = 0;

    static constexpr std::uint64_t kStepBytes = 4U << 20;

    void schedule() { activity_.schedule(); }
    void step();
    void fail(Status reason);
    // Reports the job's outcome at the end of this step.
    void finish(PushQueue::Finished job, Status status);
    [[nodiscard]] bool closing() const { return close_reason_.has_value(); }

    EventLoop& loop_;
    PushQueue queue_;
    Arrival arrival_;

  private:
    void report();
    void shut();

    OnFailure on_failure_;
    Activity activity_;
    std::vector<std::pair<PushQueue::Finished, Status>> finished_;
    std::optional<Status> close_reason_;
    bool stepping_ = false;
    bool shut_ = false;
};

}  // namespace mc
