// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <thread>
#include <vector>

#include "transport/path.hpp"
#include "transport/support/pages.hpp"
#include "transport/support/wire.hpp"

namespace mc::testing {

// The parts that both sides of a contract test have: part number i of the sender has shape
// sources[i] and content seed i; the receiver's has shape destinations[i].
struct Parts {
    std::vector<Pages::Shape> sources;
    std::vector<Pages::Shape> destinations;
};

// What the test asks of the sender.
struct Command {
    enum class Kind { push, end, results, guard, advance, close_hold, refill, cpu, die, quit };
    Kind kind = Kind::quit;
    Piece piece;              // push, end
    std::uint32_t value = 0;  // advance: epoch; refill: seed of all parts
};
// How one job of the sender ended.
struct JobResult {
    Code code = Code::ok;
    Moved moved;
    bool reported_twice = false;
};
struct GuardInfo {
    std::uint64_t address = 0;
    std::uint64_t expected = 0;  // in epoch 0
};

enum class Far { thread, process };

// The sender, in a thread of the test or in a forked process, which obeys commands. It is made
// before the test starts any thread of its own, because only a process with one thread can fork.
class FarSide {
  public:
    // Makes the sender's path in its loop's thread; null for pull paths, which need none there.
    using MakePath = std::function<std::unique_ptr<Path>(EventLoop&, Sinks&)>;

    // `in_child` runs in a forked process first: it gives up what belongs to the receiver.
    FarSide(Far where, const Parts& parts, const MakePath& make_path,
            const std::function<void()>& in_child);
    ~FarSide();  // tells it to quit, and waits
    FarSide(const FarSide&) = delete;
    FarSide& operator=(const FarSide&) = delete;

    [[nodiscard]] pid_t pid() const { return pid_; }
    // Its addresses of its parts, as pull paths get them.
    [[nodiscard]] const std::vector<std::shared_ptr<const Slice>>& sources() const {
        return sources_;
    }

    void push(const Piece& piece) { command({Command::Kind::push, piece, 0}); }
    void end(GrantId grant, std::uint32_t epoch = 0);
    // Waits for all jobs pushed so far, and returns how they ended, in order of submission.
    std::vector<JobResult> results();
    GuardInfo guard();
    void advance(std::uint32_t epoch);  // of hold and guard; returns when nobody is inside
    void close_hold();                  // and revokes the guard; returns when nobody is inside
    void refill(std::uint32_t seed);    // overwrites all pages
    double cpu_seconds();               // that its process has used
    void die();                         // a process ends at once; a thread drops its path

  private:
    struct Body;
    void command(const Command& command);

    Wire wire_;
    std::thread thread_;
    pid_t pid_ = 0;
    std::vector<std::shared_ptr<const Slice>> sources_;
    std::size_t pushed_ = 0;
};

}  // namespace mc::testing
