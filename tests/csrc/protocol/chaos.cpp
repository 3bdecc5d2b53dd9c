// SPDX-License-Identifier: Apache-2.0
#include "protocol/chaos.hpp"

#include <algorithm>
#include <utility>

namespace mc::simulation {

namespace {

constexpr std::size_t kNodes = 4;
constexpr std::size_t kRequests = 12;
constexpr Duration kPatience = 20s;
constexpr Duration kBusy = 4s;  // everything begins within this time
constexpr std::uint64_t kMostEvents = 1'000'000;
constexpr std::uint64_t kBufferBytes = 64;

std::string address(std::size_t index) { return "node-" + std::to_string(index) + ":1"; }

std::uint8_t readable_byte(std::uint64_t offset) { return static_cast<std::uint8_t>(offset * 7); }

}  // namespace

Chaos::Chaos(std::uint64_t seed)
    : network_(seed), seed_(seed), calm_(seed % 4 == 0), sharded_(one_in(3)) {
    network_.wire = {0us, Duration(1us) * dice(1, 20000)};
    network_.work = {0us, Duration(1us) * dice(1, one_in(4) ? 100000 : 5000)};
    if (one_in(3)) network_.lanes = Delay{0us, Duration(1ms) * dice(1, calm_ ? 300 : 10000)};
    options_.protocol.recv_credits = static_cast<std::uint32_t>(dice(2, 8));
    options_.protocol.verify = one_in(3);
    options_.protocol.unknown_timeout = patience(30s);
    options_.way = Way::any;
    options_.trusts_peers = true;
    options_.slack = 6 * network_.work.most + 10ms;
    if (!calm_ && one_in(4)) liars_.insert(dice(0, kNodes - 1));
    nodes_.resize(kNodes);
    for (std::size_t i = 0; i < kNodes; ++i) start(i);
}

Chaos::~Chaos() = default;

Duration Chaos::patience(Duration calm) {
    if (calm_ || one_in(2)) return calm;
    return network_.draw({1ms, 4s});
}

void Chaos::run() {
    network_.inspect = [this] { return inspect(); };
    for (std::size_t i = 0; i < kRequests; ++i) request(i);
    for (std::uint64_t touches = dice(0, 6); touches > 0; --touches)
        touch_memory(dice(0, kNodes - 1));
    if (!calm_) {
        for (std::uint64_t faults = dice(0, 4); faults > 0; --faults) fault();
    }
    network_.run_for(kBusy + 4 * kPatience);
    for (const auto& node : nodes_) {
        if (node && node->frozen()) node->thaw();
    }
    if (inspect()) network_.run_for(2 * kPatience);
    if (!testing::Test::HasFailure()) check_end();
}

bool Chaos::inspect() {
    for (const auto& node : nodes_) {
        if (node) node->audit();
    }
    EXPECT_LT(network_.events(), kMostEvents) << "they never come to rest";
    return !testing::Test::HasFailure();
}

void Chaos::check_end() {
    for (const auto& node : nodes_) {
        if (!node) continue;
        EXPECT_EQ(node->leftovers(), "");
        EXPECT_EQ(node->memory().free_pages(), node->memory().pool().page_count)
            << "pages were not given back";
        EXPECT_EQ(node->memory().trespasses(), 0U) << "somebody wrote to pages that were free";
    }
    for (const auto& [recv, damaged] : recvs_) {
        EXPECT_FALSE(damaged && recv->ok()) << "a wrong digest was not noticed";
        if (!calm_) continue;
        ASSERT_TRUE(recv->outcome());
        EXPECT_TRUE(recv->ok()) << recv->outcome()->to_string();
    }
    for (const auto& send : sends_) {
        if (!calm_) continue;
        ASSERT_TRUE(send->outcome());
        EXPECT_TRUE(send->outcome()->ok()) << send->outcome()->to_string();
    }
}

std::size_t Chaos::succeeded() const {
    return static_cast<std::size_t>(std::count_if(
        recvs_.begin(), recvs_.end(), [](const Received& one) { return one.recv->ok(); }));
}

// --- Nodes ------------------------------------------------------------------------------------

void Chaos::start(std::size_t index) {
    NodeOptions options = options_;
    for (std::uint8_t& byte : options.instance.bytes)
        byte = static_cast<std::uint8_t>(network_.random());
    options.can_pull = one_in(2);
    options.lanes = static_cast<unsigned>(dice(1, 3));
    Shape shape{.page_size = one_in(2) ? 4U : 8U, .page_count = 512};
    if (sharded_ && index < 2) {
        shape.heads = 1;
        shape.first_head = static_cast<std::uint32_t>(index);
    }
    options.pools = {shape};
    nodes_[index] = Node::start(network_, address(index), options);
    Node& node = *nodes_[index];
    node.damages_digests = liars_.contains(index);
    for (std::size_t i = 0; i < node.readable.size(); ++i) node.readable[i] = readable_byte(i);
}

void Chaos::at(Duration when, std::size_t index, Step step) {
    after(when, [this, index, step = std::move(step)] {
        if (!nodes_[index]) return;
        nodes_[index]->run([weak = std::weak_ptr(nodes_[index]), step] {
            if (const auto node = weak.lock()) step(node);
        });
    });
}

void Chaos::crash(std::size_t index) {
    if (!nodes_[index]) return;
    nodes_[index]->crash();
    buffers_.push_back(std::move(nodes_[index]->readable));
    buffers_.push_back(std::move(nodes_[index]->writable));
    nodes_[index].reset();
}

void Chaos::fault() {
    const std::size_t index = dice(0, kNodes - 1);
    const Duration when = up_to(kBusy);
    const Duration length = network_.draw({10ms, 5s});
    const auto to_node = [this, index](auto what) {
        return [this, index, what] {
            if (nodes_[index]) what(*nodes_[index]);
        };
    };
    const auto restart_after = [this, index](Duration pause) {
        after(pause, [this, index] {
            if (!nodes_[index]) start(index);
        });
    };
    switch (dice(0, 6)) {
        case 0: after(when, to_node([](Node& node) { node.lose_connections(); })); break;
        case 1: after(when, to_node([](Node& node) { node.reset_connections(); })); break;
        case 2:
            after(when, to_node([](Node& node) { node.freeze(); }));
            after(when + length, to_node([](Node& node) { node.thaw(); }));
            break;
        case 3: after(when, to_node([](Node& node) { node.freeze(); })); break;
        case 4:
        case 5:
            // With a last word or without one; back at once or after a while.
            after(when, [this, index, vanishes = one_in(2), restart_after,
                         pause = one_in(2) ? 0ns : length] {
                if (vanishes && nodes_[index]) nodes_[index]->lose_connections();
                crash(index);
                restart_after(pause);
            });
            break;
        default:  // everything that is said takes seconds to arrive
            after(when, [this, usual = network_.wire, length] {
                network_.wire.most = 3s;
                after(length, [this, usual] { network_.wire = usual; });
            });
            break;
    }
}

// --- Transfers --------------------------------------------------------------------------------

// A tag, its senders and its receivers. Tags repeat; equal tags have equal tokens.
void Chaos::request(std::size_t number) {
    const std::size_t name = number / 2;
    const std::string tag = "tag " + std::to_string(name);
    const auto tokens = static_cast<std::uint32_t>(1 + name * 37 % 60);
    Wish wish{.senders = {}, .tag = tag, .tokens = tokens, .request = network_.random() | 1};
    wish.count = static_cast<std::uint32_t>(dice(1, 2));
    wish.deadline = patience(kPatience);
    const std::size_t first = sharded_ ? 0 : dice(0, kNodes - 1);
    const std::size_t senders = sharded_ ? 2 : dice(1, wish.count);
    for (std::size_t i = 0; i < senders; ++i) {
        wish.senders.push_back(address((first + i) % kNodes));
        send((first + i) % kNodes, tag, tokens);
    }
    for (std::uint32_t rank = 0; rank < wish.count; ++rank) {
        wish.index = rank;
        wish.first_token = static_cast<std::uint32_t>(dice(0, tokens - 1));
        receive(dice(sharded_ ? 2 : 0, kNodes - 1), wish);
    }
}

void Chaos::send(std::size_t index, const std::string& tag, std::uint32_t tokens) {
    const auto life = std::make_shared<std::optional<Sending>>();
    const auto step = [life](auto what) {
        return [life, what](const std::shared_ptr<Node>&) {
            if (*life) what(**life);
        };
    };
    Duration when = up_to(kBusy);
    at(when, index,
       [this, life, tag, waits = patience(kPatience)](const std::shared_ptr<Node>& node) {
           life->emplace(node, tag, waits);
           sends_.push_back(std::shared_ptr<Sending>(life, &**life));
       });
    const auto next = [&] { return when += up_to(300ms); };
    std::uint32_t grown = 0;
    unsigned rewinds = 0;
    while (grown < tokens) {
        grown = static_cast<std::uint32_t>(dice(grown + 1, tokens));
        // Pages often come before what is computed into them.
        at(next(), index, step([grown](Sending& send) { send.append(grown); }));
        if (one_in(2)) next();
        at(when, index, step([grown](Sending& send) { send.mark_ready(grown); }));
        if (rewinds < 3 && one_in(4)) {
            ++rewinds;
            grown = static_cast<std::uint32_t>(dice(0, grown));
            const Delay late{0us, one_in(2) ? 0us : 2000us};
            at(next(), index, step([grown, late](Sending& send) { send.rewind(grown, late); }));
        }
    }
    if (!calm_ && one_in(8)) {
        at(up_to(kBusy), index, step([](Sending& send) { send.abort(); }));
    }
    at(next(), index, step([](Sending& send) { send.finish(); }));
}

void Chaos::receive(std::size_t index, const Wish& wish) {
    const Duration when = up_to(kBusy);
    const auto life = std::make_shared<std::optional<Receiving>>();
    at(when, index, [this, life, wish](const std::shared_ptr<Node>& node) {
        life->emplace(node, wish);
        const bool damaged = options_.protocol.verify && wish.senders.size() == 1 &&
                             std::any_of(liars_.begin(), liars_.end(), [&](std::size_t liar) {
                                 return address(liar) == wish.senders[0];
                             });
        recvs_.push_back({std::shared_ptr<Receiving>(life, &**life), damaged});
    });
    if (!calm_ && one_in(6)) {
        at(when + up_to(1s), index, [life](const std::shared_ptr<Node>&) {
            if (*life) (*life)->cancel();
        });
    }
}

// Reads of the peer's readable memory, writes to its writable memory.
void Chaos::touch_memory(std::size_t index) {
    const std::size_t peer = (index + dice(1, kNodes - 1)) % kNodes;
    const std::uint64_t offset = dice(0, 4096 - kBufferBytes);
    const Duration waits = patience(kPatience);
    at(up_to(kBusy), index,
       [this, peer, offset, waits, writes = one_in(2)](const std::shared_ptr<Node>& node) {
           if (!nodes_[peer]) return;
           auto& memory = writes ? nodes_[peer]->writable : nodes_[peer]->readable;
           const Segment theirs{reinterpret_cast<std::uint64_t>(memory.data()) + offset,
                                kBufferBytes};
           const auto* buffer = buffers_.emplace_back(kBufferBytes).data();
           const Segment ours{reinterpret_cast<std::uint64_t>(buffer), kBufferBytes};
           if (writes) {
               node->write(address(peer), {ours}, {theirs}, waits);
               return;
           }
           node->read(address(peer), {theirs}, {ours}, waits,
                      [buffer, offset, calm = calm_](const Status& ended) {
                          EXPECT_TRUE(ended.ok() || !calm) << ended.to_string();
                          for (std::uint64_t i = 0; ended.ok() && i < kBufferBytes; ++i)
                              ASSERT_EQ(buffer[i], readable_byte(offset + i));
                      });
       });
}

}  // namespace mc::simulation
