// SPDX-License-Identifier: Apache-2.0
// Random transfers between a few nodes, with everything going wrong that can. A seed decides all.
// Node and Receiving check while it runs that no transfer completes twice, that no byte lands after
// its transfer has ended, and that a recv which ended well has the right bytes; here is checked
// that everything ends and that nothing is left.
#include <gtest/gtest.h>

#include <cstdlib>
#include <optional>

#include "protocol/scenario.hpp"

namespace mc::simulation {
namespace {

constexpr std::size_t kNodes = 4;
constexpr std::size_t kRequests = 12;
constexpr Duration kPatience = 20s;
constexpr Duration kBusy = 4s;  // everything begins within this time

// One request's two ends, as they go through a seeded life.
class Chaos {
  public:
    explicit Chaos(std::uint64_t seed) : network_(seed), calm_(seed % 4 == 0) {
        network_.wire = {0us, Duration(1us) * dice(1, 20000)};
        network_.work = {0us, Duration(1us) * dice(1, 5000)};
        options_.protocol.recv_credits = static_cast<std::uint32_t>(dice(2, 8));
        options_.protocol.verify = one_in(3);
        for (std::size_t i = 0; i < kNodes; ++i) start(i);
    }

    void run() {
        for (std::size_t i = 0; i < kRequests; ++i) request(i);
        if (!calm_) {
            for (std::uint64_t faults = dice(0, 4); faults > 0; --faults) fault();
        }
        network_.run_for(kBusy + 4 * kPatience);
        for (const auto& node : nodes_) {
            EXPECT_EQ(node->leftovers(), "");
            EXPECT_EQ(node->memory().free_pages(), node->memory().pool().page_count)
                << "pages were not given back";
        }
        for (const auto& recv : recvs_) {
            if (!calm_) break;
            ASSERT_TRUE(recv->outcome());
            EXPECT_TRUE(recv->ok()) << recv->outcome()->to_string();
        }
        for (const auto& send : sends_) {
            if (!calm_) break;
            ASSERT_TRUE(send->outcome());
            EXPECT_TRUE(send->outcome()->ok()) << send->outcome()->to_string();
        }
    }

    [[nodiscard]] std::size_t succeeded() const {
        return static_cast<std::size_t>(std::count_if(recvs_.begin(), recvs_.end(),
                                                      [](const auto& recv) { return recv->ok(); }));
    }

  private:
    std::uint64_t dice(std::uint64_t low, std::uint64_t high) {
        return pick(network_.random, low, high);
    }
    bool one_in(std::uint64_t chance) { return dice(1, chance) == 1; }
    Duration moment() { return network_.draw({0us, kBusy}); }
    static std::string address(std::size_t index) { return "node-" + std::to_string(index) + ":1"; }

    void start(std::size_t index) {
        NodeOptions options = options_;
        options.way = Way::any;
        options.can_pull = one_in(2);
        options.lanes = static_cast<unsigned>(dice(1, 3));
        options.pools = {Shape{.page_size = one_in(2) ? 4U : 8U}};
        if (index < nodes_.size()) {
            nodes_[index] = Node::start(network_, address(index), options);
        } else {
            nodes_.push_back(Node::start(network_, address(index), options));
        }
    }

    // Does `step` in whichever incarnation lives there then, once it is not frozen.
    void at(Duration when, std::size_t index,
            std::function<void(const std::shared_ptr<Node>&)> step) {
        network_.after({when, when}, [this, index, step = std::move(step)] {
            nodes_[index]->run([weak = std::weak_ptr(nodes_[index]), step] {
                if (const auto node = weak.lock()) step(node);
            });
        });
    }

    // A tag, its senders and its receivers. Tags repeat; equal tags have equal tokens.
    void request(std::size_t number) {
        const std::size_t name = number / 2;
        const std::string tag = "tag " + std::to_string(name);
        const auto tokens = static_cast<std::uint32_t>(1 + name * 37 % 60);
        Wish wish{.senders = {}, .tag = tag, .tokens = tokens, .request = network_.random() | 1};
        wish.count = static_cast<std::uint32_t>(dice(1, 2));
        wish.deadline = kPatience;
        const std::size_t first = dice(0, kNodes - 1);
        for (std::uint64_t i = 0; i < wish.count; ++i) {
            const std::size_t sender = (first + i) % kNodes;
            wish.senders.push_back(address(sender));
            if (one_in(3)) break;
        }
        for (std::size_t i = 0; i < wish.senders.size(); ++i)
            send((first + i) % kNodes, tag, tokens);
        for (std::uint32_t rank = 0; rank < wish.count; ++rank) {
            wish.index = rank;
            wish.first_token = static_cast<std::uint32_t>(dice(0, tokens - 1));
            receive(dice(0, kNodes - 1), wish);
        }
    }

    void send(std::size_t index, const std::string& tag, std::uint32_t tokens) {
        const auto life = std::make_shared<std::optional<Sending>>();
        const auto step = [life](auto what) {
            return [life, what](const std::shared_ptr<Node>&) {
                if (*life) what(**life);
            };
        };
        Duration when = moment();
        at(when, index, [this, life, tag](const std::shared_ptr<Node>& node) {
            life->emplace(node, tag, kPatience);
            sends_.push_back(std::shared_ptr<Sending>(life, &**life));
        });
        const auto next = [&] { return when += network_.draw({0us, 300ms}); };
        std::uint32_t grown = 0;
        unsigned rewinds = 0;
        while (grown < tokens) {
            grown = static_cast<std::uint32_t>(dice(grown + 1, tokens));
            at(next(), index, step([grown](Sending& send) { send.grow(grown); }));
            if (rewinds < 3 && one_in(4)) {
                ++rewinds;
                grown = static_cast<std::uint32_t>(dice(0, grown));
                const Delay late{0us, one_in(2) ? 0us : 2000us};
                at(next(), index, step([grown, late](Sending& send) { send.rewind(grown, late); }));
            }
        }
        if (!calm_ && one_in(8)) {
            at(moment(), index, step([](Sending& send) { send.abort(); }));
        }
        at(next(), index, step([](Sending& send) { send.finish(); }));
    }

    void receive(std::size_t index, const Wish& wish) {
        const Duration when = moment();
        const auto life = std::make_shared<std::optional<Receiving>>();
        at(when, index, [this, life, wish](const std::shared_ptr<Node>& node) {
            life->emplace(node, wish);
            recvs_.push_back(std::shared_ptr<Receiving>(life, &**life));
        });
        if (!calm_ && one_in(6)) {
            at(when + network_.draw({0us, 1s}), index, [life](const std::shared_ptr<Node>&) {
                if (*life) (*life)->cancel();
            });
        }
    }

    void fault() {
        const std::size_t index = dice(0, kNodes - 1);
        const Duration when = moment();
        const Duration length = network_.draw({10ms, 5s});
        const auto after = [&](Duration delay, std::function<void()> event) {
            network_.after({delay, delay}, std::move(event));
        };
        switch (dice(0, 2)) {
            case 0: after(when, [this, index] { nodes_[index]->lose_connections(); }); break;
            case 1:
                after(when, [this, index] { nodes_[index]->freeze(); });
                after(when + length, [this, index] { nodes_[index]->thaw(); });
                break;
            case 2:
                after(when, [this, index, vanishes = one_in(2)] {
                    if (vanishes) nodes_[index]->lose_connections();
                    nodes_[index]->crash();
                    start(index);
                });
                break;
        }
    }

    Network network_;
    const bool calm_;  // nothing goes wrong, and everything must go well
    NodeOptions options_;
    std::vector<std::shared_ptr<Node>> nodes_;
    std::vector<std::shared_ptr<Sending>> sends_;
    std::vector<std::shared_ptr<Receiving>> recvs_;
};

// MC_SEED runs one seed only, MC_SEEDS so many.
std::uint64_t number_from(const char* variable, std::uint64_t otherwise) {
    const char* text = std::getenv(variable);
    return text == nullptr ? otherwise : std::strtoull(text, nullptr, 10);
}

TEST(Random, EverythingEndsOnceAndNothingIsLeft) {
    const std::uint64_t only = number_from("MC_SEED", 0);
    const std::uint64_t seeds = number_from("MC_SEEDS", 200);
    std::size_t succeeded = 0;
    for (std::uint64_t seed = only == 0 ? 1 : only; seed <= (only == 0 ? seeds : only); ++seed) {
        SCOPED_TRACE("MC_SEED=" + std::to_string(seed));
        Chaos chaos(seed);
        chaos.run();
        succeeded += chaos.succeeded();
        if (HasFailure()) break;
    }
    EXPECT_GT(succeeded, 0U);
}

}  // namespace
}  // namespace mc::simulation
