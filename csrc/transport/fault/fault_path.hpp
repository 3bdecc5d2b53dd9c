// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "transport/path.hpp"

namespace mc {

// Another path with faults on request, for tests: what the layers above do when a path drops,
// delays, cuts short, refuses or dies can then be tested without a network that does so. Like every
// path it reports each job exactly once, and belongs to one loop's thread.
class FaultPath final : public Path {
  public:
    FaultPath(std::unique_ptr<Path> inner, std::function<void(Status)> on_failure);
    ~FaultPath() override;

    // What happens to jobs and ends that are submitted from now on.
    void pass();                // nothing: they go through
    void drop();                // they are taken and never heard of again, until the path closes
    void delay();               // they wait for release()
    void refuse(Status error);  // they fail at once; ends are lost
    void release();             // the delayed ones go through, in their order; later ones pass
    // After so many more bytes the path dies in the middle of a job, with `peer_lost`.
    void truncate_after(std::uint64_t bytes);
    // The path dies now: everything that it has fails, and on_failure is called.
    void kill(Status reason);

    [[nodiscard]] PathKind kind() const override { return inner_->kind(); }
    void push(Push job) override { submit(std::move(job)); }
    void pull(Pull job) override { submit(std::move(job)); }
    void end(GrantId grant, std::uint32_t epoch) override;
    [[nodiscard]] std::uint64_t outstanding() const override { return inner_->outstanding(); }
    void close(Status reason) override;

  private:
    enum class Mode { pass, drop, delay, refuse };
    struct Waiting {
        std::function<void()> go;
        std::function<void(Status, Moved)> done;  // empty for an end
    };

    void submit(Push job) { apply(std::move(job)); }
    void submit(Pull job) { apply(std::move(job)); }
    template <typename Job>
    void apply(Job job);
    template <typename Job>
    void forward(Job job);
    void to_inner(Push job) { inner_->push(std::move(job)); }
    void to_inner(Pull job) { inner_->pull(std::move(job)); }

    std::unique_ptr<Path> inner_;
    std::function<void(Status)> on_failure_;
    Mode mode_ = Mode::pass;
    Status refusal_;
    std::optional<std::uint64_t> bytes_left_;
    std::vector<Waiting> waiting_;  // dropped or delayed
    std::optional<Status> close_reason_;
};

}  // namespace mc
