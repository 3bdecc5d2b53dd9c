// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "protocol/scenario.hpp"

namespace mc::simulation {

// A few seconds in the lives of some engines, in which everything goes wrong that can; the seed
// decides all. Requests with equal tags, several senders and several receivers stream, rewind, are
// aborted on either side and meet deadlines that are too short; peers read and write one another's
// memory; lanes lag behind; connections are lost with and without notice; engines freeze, some for
// ever, crash, and come back at the same address. Every fourth seed is calm: nothing fails there,
// and everything has to go well.
class Chaos {
  public:
    explicit Chaos(std::uint64_t seed);
    Chaos(const Chaos&) = delete;
    Chaos& operator=(const Chaos&) = delete;
    ~Chaos();

    // Audits every node after every event, and stops at the first failure of the test.
    void run();

    [[nodiscard]] std::uint64_t trace() const { return network_.trace(); }
    [[nodiscard]] std::size_t succeeded() const;  // recvs

  private:
    using Step = std::function<void(const std::shared_ptr<Node>&)>;

    std::uint64_t dice(std::uint64_t low, std::uint64_t high) {
        return pick(network_.random, low, high);
    }
    bool one_in(std::uint64_t chance) { return dice(1, chance) == 1; }
    Duration up_to(Duration most) { return network_.draw({0us, most}); }
    // Where nothing may fail, `calm`; else sometimes something much shorter.
    Duration patience(Duration calm);

    void start(std::size_t index);
    void after(Duration delay, std::function<void()> event) {
        network_.after({delay, delay}, std::move(event));
    }
    // Does `step` in whichever incarnation lives there then, once it is not frozen.
    void at(Duration when, std::size_t index, Step step);

    void request(std::size_t number);
    void send(std::size_t index, const std::string& tag, std::uint32_t tokens);
    void receive(std::size_t index, const Wish& wish);
    void touch_memory(std::size_t index);  // of a peer

    void fault();
    void crash(std::size_t index);

    bool inspect();
    void check_end();

    Network network_;
    const std::uint64_t seed_;
    const bool calm_;
    const bool sharded_;  // nodes 0 and 1 send, each with half of the heads; 2 and 3 receive
    NodeOptions options_;
    std::set<std::size_t> liars_;               // nodes that send damaged digests
    std::vector<std::shared_ptr<Node>> nodes_;  // null while it is down
    std::vector<std::shared_ptr<Sending>> sends_;
    struct Received {
        std::shared_ptr<Receiving> recv;
        bool damaged;
    };
    std::vector<Received> recvs_;
    // Memory that is touched one-sidedly. It outlives its node, because whether an address exists
    // there must follow from the seed and not from the allocator.
    std::vector<std::vector<std::uint8_t>> buffers_;
};

}  // namespace mc::simulation
