// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <set>
#include <vector>

#include "transport/support/far_side.hpp"
#include "transport/support/near_side.hpp"

namespace mc::testing {

// One path between a sender (far side) and a receiver (this process), ready to move bytes: the
// contract tests say the same to every kind of path.
class Rig {
  public:
    Rig(PathKind kind, Far where, Parts parts, std::size_t ring_bytes = 256U << 10);
    ~Rig();
    Rig(const Rig&) = delete;
    Rig& operator=(const Rig&) = delete;

    [[nodiscard]] bool pushes() const { return kind_ == PathKind::tcp || kind_ == PathKind::shm; }
    FarSide& far() { return *far_; }
    EventLoop& loop() { return loop_; }
    Path& path() { return *path_; }
    TestSinks& sinks() { return sinks_; }
    Pages& destination(std::size_t part) { return *destinations_[part]; }

    // A piece of a part that is everything, or the given bytes of it.
    [[nodiscard]] Piece piece(std::uint64_t grant, std::uint16_t part) const;
    static Piece cut(Piece piece, std::uint64_t offset, std::uint64_t length);

    // The receiver's end of a grant: made with all parts the first time that it is asked for.
    std::shared_ptr<TestSink> grant(std::uint64_t id);

    void start(const Piece& piece);    // pushes or pulls
    std::vector<JobResult> results();  // of all that was started; waits for them
    // Waits until what the sender has sent is placed or dropped.
    bool settle();
    // start(), results() and settle() for each piece; whether all jobs succeeded.
    bool move(const std::vector<Piece>& pieces);

    // Why the receiver's path failed, once it has.
    bool wait_for_failure(Status& reason);
    std::size_t failures();

  private:
    void start_pull(const Piece& piece);

    const PathKind kind_;
    Events events_;
    TestSinks sinks_{events_};
    Log log_{LogLevel::error};
    std::vector<std::unique_ptr<Pages>> destinations_;
    std::map<std::uint64_t, std::shared_ptr<TestSink>> grants_;
    std::unique_ptr<FarSide> far_;
    GuardInfo guard_;
    EventLoop loop_;
    std::unique_ptr<Path> path_;

    std::set<std::pair<GrantId, std::uint32_t>> unsettled_;
    std::size_t expected_ends_ = 0;
    std::vector<std::optional<JobResult>> pulls_;
    std::vector<Status> failures_;
};

}  // namespace mc::testing
