// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/clock.hpp"
#include "protocol/messages.hpp"

// A network and a clock that exist in one thread: what happens depends on the seed alone.
namespace mc::simulation {

using Random = std::mt19937_64;
using namespace std::chrono_literals;

// Uniform in [low, high].
inline std::uint64_t pick(Random& random, std::uint64_t low, std::uint64_t high) {
    return std::uniform_int_distribution<std::uint64_t>(low, high)(random);
}

// How long something takes: uniformly between the two.
struct Delay {
    Duration least{};
    Duration most{};
};

class Connection;

// Whether the pages of a send are still its own: what a guard word says to those who read them.
struct Source {
    std::uint32_t epoch = 0;
    bool closed = false;
};

// The clock, what is going to happen, and who listens where.
class Network {
  public:
    explicit Network(std::uint64_t seed = 1) : random(seed) {}

    Random random;
    Delay wire{1us, 1us};        // for a message to arrive
    std::optional<Delay> lanes;  // for a batch to arrive; like a message if not said
    Delay work{1us, 1us};        // for an engine's other threads to do something

    [[nodiscard]] Instant now() const { return now_; }
    [[nodiscard]] Duration draw(const Delay& delay);
    void at(Instant when, std::function<void()> event);
    void after(const Delay& delay, std::function<void()> event) {
        at(now_ + draw(delay), std::move(event));
    }
    // Everything that happens within `duration`, with `inspect` after each event. Ends early when
    // that says false.
    void run_for(Duration duration);
    std::function<bool()> inspect;
    [[nodiscard]] std::uint64_t events() const { return happened_; }

    // Adds to the trace of what happened, which is the same whenever the seed is.
    void note(std::string_view what, std::uint64_t number = 0);
    [[nodiscard]] std::uint64_t trace() const { return trace_; }

    using Accept = std::function<void(const std::shared_ptr<Connection>&)>;
    void listen(const std::string& address, Accept accept) {
        listeners_[address] = std::move(accept);
    }
    void unlisten(const std::string& address) { listeners_.erase(address); }
    // Null if nobody listens there.
    std::shared_ptr<Connection> connect(const std::string& address);

    // Guard words by their addresses; gone with the process or the send.
    std::vector<std::weak_ptr<const Source>> guards;

  private:
    Instant now_{1000s};  // as on a machine that has run for a while
    std::uint64_t next_event_ = 0;
    std::uint64_t happened_ = 0;
    std::uint64_t trace_ = 0xcbf29ce484222325;
    std::map<std::pair<Instant, std::uint64_t>, std::function<void()>> events_;
    std::map<std::string, Accept> listeners_;
};

// What travels on a lane: bytes of a slice.
struct Batch {
    GrantId grant;
    std::uint32_t epoch = 0;
    std::uint16_t part = 0;
    TokenRange tokens;
    std::uint64_t offset = 0;
    Bytes bytes;
};

// A control connection and the data lanes beside it. What one side sends on one channel arrives in
// order; between channels there is no order. Lanes outlive the control connection: what is on them
// arrives, however late, unless the connection is lost.
class Connection : public std::enable_shared_from_this<Connection> {
  public:
    enum Side : std::size_t { connector = 0, acceptor = 1 };

    struct End {
        std::function<void(const Message&)> message;
        std::function<void(unsigned lane, const Batch&)> batch;
        std::function<void(unsigned lane, GrantId, std::uint32_t epoch)> lane_ended;
        std::function<void()> closed;  // by the other side
    };

    explicit Connection(Network& network) : network_(network) {}

    // What arrives earlier waits for this, as in a socket that nobody has accepted yet.
    void attach(Side side, End end);
    // Encoded here and decoded there.
    void send(Side from, const Message& message);
    void push(Side from, unsigned lane, Batch batch);
    void end_lane(Side from, unsigned lane, GrantId grant, std::uint32_t epoch);
    // The other side hears of it after all that was said before.
    void close(Side from);
    // Nothing arrives any more, and both sides are told.
    void reset();
    // Nothing arrives any more, and nobody is told.
    void lose() { lost_ = true; }

  private:
    static constexpr unsigned kControl = 0;  // the other channels are lanes

    // Runs `arrival` unless the connection is lost or, for control, closed there. It is given a
    // copy of that side's handlers, because they may close it.
    void carry(Side from, unsigned channel, std::function<void(End)> arrival);

    Network& network_;
    std::array<std::optional<End>, 2> ends_;
    std::array<std::vector<std::function<void(End)>>, 2> unattended_;
    std::array<bool, 2> closed_{};
    bool lost_ = false;
    std::array<std::map<unsigned, Instant>, 2> latest_;  // arrival by channel
};

inline Connection::Side other(Connection::Side side) {
    return side == Connection::connector ? Connection::acceptor : Connection::connector;
}

}  // namespace mc::simulation
