// SPDX-License-Identifier: Apache-2.0
// Receivers that break the rules: whatever they say costs them their session or their transfer,
// and nobody else anything.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "protocol/scenario.hpp"
#include "protocol/stranger.hpp"

namespace mc::simulation {
namespace {

using testing::HasSubstr;

class HostileReceiver : public TwoNodes {
  protected:
    void SetUp() override {
        NodeOptions options;
        options.protocol.recv_credits = 3;
        start(options, options);
        mallory.connect_and_greet("p:1");
    }
    // How p's pool pairs with an equal one.
    Match match() {
        const Pool* pool = &p->memory().pool();
        return match_pools({&pool, 1}, *pool)->front();
    }
    Recv recv(std::uint64_t grant, const std::string& tag) {
        return {.grant = GrantId{grant},
                .request = grant,
                .tag = tag,
                .remaining_ms = 10000,
                .parts = {{PlanId{1}, {{0, 8}}}}};
    }
    void say_plan() { mallory.say(Plan{PlanId{1}, "kv", match()}); }
    // A transfer between others goes well meanwhile.
    void expect_others_undisturbed() {
        Sending send(p, "others");
        send.grow(8);
        send.finish();
        Receiving received(d, wish("others", 8));
        network.run_for(1s);
        EXPECT_TRUE(received.ok());
        EXPECT_TRUE(send.outcome()->ok());
    }

    Stranger mallory{network, "mallory:1"};
};

TEST_F(HostileReceiver, RecvOfAnUnknownPlan) {
    mallory.say(recv(1, "a"));
    EXPECT_TRUE(mallory.refused_for_protocol());
    expect_others_undisturbed();
}

TEST_F(HostileReceiver, RecvOfNothingInAPart) {
    say_plan();
    Recv empty = recv(1, "a");
    empty.parts[0].wanted.clear();
    mallory.say(empty);
    EXPECT_TRUE(mallory.refused_for_protocol());
}

TEST_F(HostileReceiver, RecvWithoutARequest) {
    say_plan();
    Recv nameless = recv(1, "a");
    nameless.request = 0;
    mallory.say(nameless);
    EXPECT_TRUE(mallory.refused_for_protocol());
}

TEST_F(HostileReceiver, RecvRepeatsAParkedGrant) {
    say_plan();
    mallory.say(recv(1, "a"));
    EXPECT_EQ(p->exchange().senders().parked(), 1U);
    mallory.say(recv(1, "b"));
    EXPECT_TRUE(mallory.refused_for_protocol());
    EXPECT_EQ(p->exchange().senders().parked(), 0U);
}

TEST_F(HostileReceiver, RecvRepeatsAMatchedGrant) {
    Sending send(p, "a");
    say_plan();
    mallory.say(recv(1, "a"));
    mallory.say(recv(1, "b"));
    EXPECT_TRUE(mallory.refused_for_protocol());
    send.finish();
    network.run_for(1s);
    EXPECT_EQ(send.outcome()->code(), Code::protocol);
}

TEST_F(HostileReceiver, ReadRepeatsAParkedGrant) {
    say_plan();
    mallory.say(recv(1, "a"));
    mallory.say(Read{.grant = GrantId{1}, .remaining_ms = 1000, .source = {{16, 1}}});
    EXPECT_TRUE(mallory.refused_for_protocol());
}

TEST_F(HostileReceiver, MoreRecvsThanCredits) {
    say_plan();
    for (std::uint64_t grant = 1; grant <= 3; ++grant) mallory.say(recv(grant, "a"));
    EXPECT_FALSE(mallory.cut_off());
    mallory.say(recv(4, "a"));
    EXPECT_TRUE(mallory.refused_for_protocol());
    EXPECT_THAT(mallory.heard<Bye>().back().reason, HasSubstr("credit"));
    expect_others_undisturbed();
}

TEST_F(HostileReceiver, CancelsGiveNoCreditThatWasNotTaken) {
    say_plan();
    for (std::uint64_t grant = 1; grant <= 9; ++grant) mallory.say(Cancel{GrantId{grant}});
    EXPECT_EQ(mallory.heard<Cancelled>().size(), 9U);
    for (std::uint64_t grant = 1; grant <= 4; ++grant) mallory.say(recv(grant, "a"));
    EXPECT_TRUE(mallory.refused_for_protocol());
}

TEST_F(HostileReceiver, PlansThatDoNotFit) {
    const auto refused = [&](const Plan& plan) {
        Stranger peer(network, "peer:1");
        peer.connect_and_greet("p:1");
        peer.say(plan);
        return peer.refused_for_protocol();
    };
    EXPECT_TRUE(refused({PlanId{1}, "no such pool", match()}));
    EXPECT_TRUE(refused({PlanId{}, "kv", match()}));
    EXPECT_TRUE(refused({PlanId{1}, "kv", {}}));
    Match outside = match();
    outside.pairs[0].source_plane = 77;
    EXPECT_TRUE(refused({PlanId{1}, "kv", outside}));
    Match wrong_sum = match();
    ++wrong_sum.token_bytes;
    EXPECT_TRUE(refused({PlanId{1}, "kv", wrong_sum}));
    EXPECT_FALSE(refused({PlanId{1}, "kv", match()}));
}

TEST_F(HostileReceiver, APlanTwice) {
    say_plan();
    say_plan();
    EXPECT_TRUE(mallory.refused_for_protocol());
}

// What a peer announces is kept as long as its session lives.
TEST_F(HostileReceiver, PlansWithoutEnd) {
    Match large = match();
    while (large.pairs.size() < 4096) large.pairs.push_back(large.pairs.front());
    large.order.axes = {Axis::layer, Axis::block, Axis::head, Axis::token};
    large.token_bytes = large.pairs.size() * match().token_bytes / match().pairs.size();
    std::uint64_t plans = 0;
    while (!mallory.cut_off() && plans < 1000) mallory.say(Plan{PlanId{++plans}, "kv", large});
    EXPECT_GT(plans, 16U) << "a large model pairs in fewer parts than this";
    EXPECT_LT(plans, 1000U) << "memory grows with every PLAN";
}

TEST_F(HostileReceiver, PoolsWithoutEnd) {
    Pool pool = p->memory().pool();
    const Plane plane = pool.planes.front();
    pool.planes.assign(8192, plane);
    for (std::uint32_t i = 0; i < pool.planes.size(); ++i) pool.planes[i].layer = i;
    std::size_t pools = 0;
    while (!mallory.cut_off() && pools < 100) {
        pool.name = "pool " + std::to_string(++pools);
        mallory.say(PoolAdded{pool});
    }
    EXPECT_LT(pools, 100U) << "memory grows with every POOL";
}

TEST_F(HostileReceiver, ReceivedBeforeDoneEndsNothing) {
    Sending send(p, "a");
    send.grow(4);
    say_plan();
    mallory.say(recv(1, "a"));
    mallory.say(Received{GrantId{1}});
    EXPECT_EQ(p->exchange().senders().grants(), 1U);
    send.grow(8);
    send.finish();
    network.run_for(1ms);
    EXPECT_FALSE(send.outcome());
    mallory.say(Received{GrantId{1}});
    EXPECT_TRUE(send.outcome()->ok());
}

TEST_F(HostileReceiver, SpeaksOfGrantsThatAreNotItsOwn) {
    Sending send(p, "a");
    Receiving received(d, wish("a", 8));
    send.grow(4);
    network.run_for(1s);
    const GrantId grant = d->first_grant();
    mallory.say(Cancel{grant});
    mallory.say(Received{grant});
    mallory.say(Rewound{grant, 1});
    send.grow(8);
    send.finish();
    network.run_for(1s);
    EXPECT_TRUE(received.ok());
    EXPECT_TRUE(send.outcome()->ok());
}

TEST_F(HostileReceiver, RewoundToAnotherEpochThanAskedFor) {
    Sending send(p, "a");
    send.grow(8);
    say_plan();
    mallory.say(recv(1, "a"));
    send.rewind(0);
    network.run_for(1ms);
    ASSERT_EQ(mallory.heard<mc::Rewind>().size(), 1U);
    mallory.say(Rewound{GrantId{1}, 7});
    EXPECT_TRUE(mallory.refused_for_protocol());
    send.finish();
    network.run_for(1s);
    EXPECT_FALSE(send.outcome()->ok());
}

TEST_F(HostileReceiver, RewoundWithoutRewind) {
    Sending send(p, "a");
    send.grow(4);
    say_plan();
    mallory.say(recv(1, "a"));
    mallory.say(Rewound{GrantId{1}, 0});
    mallory.say(Rewound{GrantId{1}, 1});
    EXPECT_EQ(count_tokens(p->shipped), 4U) << "a peer makes the sender ship again and again";
    send.abort();
    network.run_for(1s);
}

// A peer that is written to.
class HostileWriteTarget : public HostileReceiver {
  protected:
    void SetUp() override {
        HostileReceiver::SetUp();
        mallory.hello.recv_credits = 1;
    }
    TransferId write() {
        const auto at = reinterpret_cast<std::uint64_t>(p->readable.data());
        const TransferId id = p->write("mallory:1", {{at, 16}}, {{64, 16}}, 10s);
        network.run_for(1ms);
        return id;
    }
};

// Its number is easily guessed.
TEST_F(HostileWriteTarget, GrantsAWriteThatWaitsForCredit) {
    const TransferId first = write();
    mallory.greet();
    const TransferId second = write();
    ASSERT_EQ(mallory.heard<Write>().size(), 1U) << "one credit";
    mallory.say(WriteGrant{second, GrantId{7}, 0, false});
    EXPECT_EQ(mallory.heard<Fail>().size(), 1U);
    EXPECT_TRUE(p->shipped.empty()) << "pages go to a grant for nothing";
    mallory.say(WriteRefused{second, Code::aborted, "guess"});
    EXPECT_FALSE(p->outcome(second));
    mallory.say(WriteRefused{first, Code::aborted, "no"});
    EXPECT_EQ(p->outcome(first)->code(), Code::aborted);
    ASSERT_EQ(mallory.heard<Write>().size(), 2U) << "the credit came back";
    mallory.say(WriteRefused{second, Code::aborted, "no"});
    EXPECT_EQ(p->outcome(second)->code(), Code::aborted);
}

TEST_F(HostileWriteTarget, GrantsWithTheNumberOfAParkedRecv) {
    const TransferId id = write();
    mallory.greet();
    say_plan();
    mallory.say(recv(1, "a"));
    mallory.say(WriteGrant{id, GrantId{1}, 0, false});
    EXPECT_TRUE(mallory.refused_for_protocol());
    EXPECT_EQ(p->outcome(id)->code(), Code::protocol);
    expect_others_undisturbed();
}

TEST_F(HostileWriteTarget, GrantsWithTheNumberOfAGrantInUse) {
    const TransferId id = write();
    mallory.greet();
    Sending send(p, "a");
    say_plan();
    mallory.say(recv(1, "a"));
    mallory.say(WriteGrant{id, GrantId{1}, 0, false});
    EXPECT_TRUE(mallory.refused_for_protocol());
    send.finish();
    network.run_for(1s);
    EXPECT_EQ(send.outcome()->code(), Code::protocol);
}

TEST_F(HostileReceiver, WriteGrantsForWhatIsNoWriteOfThatPeer) {
    Sending send(p, "a");
    mallory.say(WriteGrant{send.id(), GrantId{9}, 0, false});
    EXPECT_EQ(mallory.heard<Fail>().size(), 1U);
    mallory.say(WriteRefused{send.id(), Code::internal, "no"});
    EXPECT_FALSE(send.outcome());
    send.abort();
    network.run_for(1s);
}

}  // namespace
}  // namespace mc::simulation
