// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <gtest/gtest.h>

#include <array>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "protocol/node.hpp"

// Sends and recvs as a serving engine makes them: pages are taken from a node's memory, filled with
// the pattern of the tag or checked against it, and spoilt as soon as the transfer gives them back.
namespace mc::simulation {

class Sending {
  public:
    Sending(const std::shared_ptr<Node>& node, const std::string& tag, Duration patience = 60s);

    // Pages for the first `tokens` tokens.
    void append(std::uint32_t tokens);
    void mark_ready(std::uint32_t tokens);
    void grow(std::uint32_t tokens) {
        append(tokens);
        mark_ready(tokens);
    }
    // Pages behind `tokens` are taken back and spoilt at once; the engine's control thread hears of
    // it after `delay`.
    void rewind(std::uint32_t tokens, const Delay& delay = {});
    // With `rows` pages of the pool "aux", if any.
    void finish(std::uint32_t rows = 0);
    void abort(const std::string& reason = "aborted by the sender");

    // How it ended, if it has.
    [[nodiscard]] const std::optional<Status>& outcome() const { return state_->outcome; }
    [[nodiscard]] TransferId id() const { return id_; }
    std::set<std::size_t> null_pages;  // the page table has the null page in these places

  private:
    struct State {
        std::vector<std::int32_t> pages, rows;
        std::uint32_t ready = 0;   // tokens that are marked
        std::uint32_t filled = 0;  // and that the pages hold: before, they hold something else
        std::optional<Status> outcome;
        unsigned on_their_way = 0;  // calls that the control thread has not heard of
        Instant heard_until;        // when it will have heard of them all
    };

    void fill(Node& node);
    // Calls of one thread are heard in their order, `delay` after the call or after the one before.
    void call(std::function<void(Senders&)> what, const Delay& delay = {});

    std::weak_ptr<Node> node_;
    std::string tag_;
    Duration patience_;
    TransferId id_;
    std::shared_ptr<State> state_ = std::make_shared<State>();
};

struct Wish {
    std::vector<std::string> senders;
    std::string tag;
    std::uint32_t tokens = 0, first_token = 0;
    std::uint32_t rows = 0;     // pages of the pool "aux"
    std::uint64_t request = 0;  // random if 0
    std::uint32_t index = 0, count = 1;
    Duration deadline = 30s;
    std::set<std::size_t> null_pages{};
};

class Receiving {
  public:
    Receiving(const std::shared_ptr<Node>& node, const Wish& wish);
    // Gives the senders up without wanting anything.
    static Receiving release(const std::shared_ptr<Node>& node, Wish wish);

    void cancel();

    // How it ended, if it has. The bytes have been compared if it ended well.
    [[nodiscard]] const std::optional<Status>& outcome() const { return state_->outcome; }
    [[nodiscard]] bool ok() const { return outcome() && outcome()->ok(); }
    [[nodiscard]] std::optional<Code> code() const {
        return outcome() ? std::optional(outcome()->code()) : std::nullopt;
    }

  private:
    struct State {
        std::vector<std::int32_t> pages, rows;
        std::optional<Status> outcome;
    };

    std::weak_ptr<Node> node_;
    TransferId id_;
    std::shared_ptr<State> state_ = std::make_shared<State>();
};

// A sender and a receiver, between which nothing may be left when a test ends.
class TwoNodes : public testing::Test {
  protected:
    void start(const NodeOptions& sender, const NodeOptions& receiver) {
        p = Node::start(network, "p:1", sender);
        d = Node::start(network, "d:1", receiver);
    }
    void SetUp() override { start({}, {}); }
    void TearDown() override {
        network.run_for(1s);
        for (const auto& node : {p, d}) {
            if (node) {
                EXPECT_EQ(node->leftovers(), "");
            }
        }
    }
    // A wish for the first `tokens` tokens that p sends.
    static Wish wish(const std::string& tag, std::uint32_t tokens) {
        return {.senders = {"p:1"}, .tag = tag, .tokens = tokens};
    }

    Network network;
    std::shared_ptr<Node> p, d;
};

// The same for each way of moving bytes.
class EachWay : public TwoNodes, public testing::WithParamInterface<Way> {
  protected:
    void SetUp() override {
        NodeOptions options;
        options.way = GetParam();
        options.pools = {Shape{}, Shape{.name = "aux", .layers = 1, .heads = 1, .page_size = 1}};
        start(options, options);
    }
};

inline std::string name_of_way(const testing::TestParamInfo<Way>& way) {
    constexpr std::array<const char*, 4> kNames{"push", "inline_data", "pull", "any"};
    return kNames.at(static_cast<std::size_t>(way.param));
}
#define MC_FOR_EACH_WAY(suite)                                                                    \
    INSTANTIATE_TEST_SUITE_P(All, suite, testing::Values(Way::push, Way::inline_data, Way::pull), \
                             name_of_way)

}  // namespace mc::simulation
