// SPDX-License-Identifier: Apache-2.0
// Peers that break the rules: whatever they say costs them their session or their transfer, and
// nobody else anything.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "protocol/scenario.hpp"
#include "protocol/stranger.hpp"

namespace mc::simulation {
namespace {

using testing::HasSubstr;

GrantId first_grant_of(const Node& node) {
    for (const Message& message : node.messages) {
        if (const auto* recv = std::get_if<Recv>(&message)) return recv->grant;
    }
    ADD_FAILURE() << "no RECV was sent";
    return {};
}

// --- Against a sender -------------------------------------------------------------------------

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
    const GrantId grant = first_grant_of(*d);
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

TEST_F(HostileReceiver, WriteGrantsForWhatIsNoWriteOfThatPeer) {
    Sending send(p, "a");
    mallory.say(WriteGrant{send.id(), GrantId{9}, 0, false});
    EXPECT_EQ(mallory.heard<Fail>().size(), 1U);
    mallory.say(WriteRefused{send.id(), Code::internal, "no"});
    EXPECT_FALSE(send.outcome());
    send.abort();
    network.run_for(1s);
}

// --- Against a receiver -----------------------------------------------------------------------

class HostileSender : public TwoNodes {
  protected:
    void SetUp() override {
        NodeOptions options;
        options.pools = {Shape{}};
        start(options, options);
        mallory.hello.pools = {p->memory().pool()};
        mallory.hello.recv_credits = 1;
    }
    Receiving begin(const std::string& tag, std::uint32_t tokens) {
        Wish from_mallory = wish(tag, tokens);
        from_mallory.senders = {"mallory:1"};
        Receiving receiving(d, from_mallory);
        network.run_for(1ms);
        if (mallory.heard<Recv>().empty()) {
            mallory.greet();
        }
        grant = mallory.heard<Recv>().back().grant;
        return receiving;
    }
    // Pages of p's, which d can "read", as mallory's.
    Ready ready(std::uint32_t epoch, TokenRange tokens) {
        return {grant, epoch, 0, tokens, {0, 1, 2, 3}, guard, 0};
    }
    void SetUpGuard() {
        source = std::make_shared<Source>();
        network.guards.push_back(source);
        guard = network.guards.size() - 1;
    }
    void answer_cancels() {
        network.run_for(1ms);
        for (const Cancel& cancel : mallory.heard<Cancel>()) mallory.say(Cancelled{cancel.grant});
    }

    Stranger mallory{network, "mallory:1"};
    GrantId grant;
    std::shared_ptr<Source> source;
    std::uint64_t guard = 0;
};

TEST_F(HostileSender, DoneBeforeAnythingCame) {
    const Receiving recv = begin("a", 8);
    mallory.say(Done{grant, 0, 0, 0});
    network.run_for(1s);
    EXPECT_EQ(recv.code(), Code::protocol);
    EXPECT_TRUE(mallory.heard<Received>().empty());
    answer_cancels();
}

TEST_F(HostileSender, DoneClaimsBytesThatDidNotCome) {
    const Receiving recv = begin("a", 8);
    mallory.say(Done{grant, 0, p->memory().pool().planes[0].page_stride * 4, 0});
    network.run_for(1s);
    EXPECT_EQ(recv.code(), Code::protocol);
    answer_cancels();
}

TEST_F(HostileSender, DataBeyondWhatWasAskedFor) {
    for (const Data& data :
         {Data{{}, 0, 1, {0, 4}, 0, Bytes(4)}, Data{{}, 0, 0, {8, 12}, 0, Bytes(4)},
          Data{{}, 0, 0, {0, 0}, 0, Bytes(4)}, Data{{}, 0, 0, {0, 4}, UINT64_MAX, Bytes(4)},
          Data{{}, 0, 0, {0, 4}, 0, Bytes(100000)}}) {
        const Receiving recv = begin("a", 8);
        Data sent = data;
        sent.grant = grant;
        mallory.say(sent);
        network.run_for(1s);
        EXPECT_EQ(recv.code(), Code::protocol);
        answer_cancels();
    }
}

TEST_F(HostileSender, ReadyOutOfRange) {
    const auto code_of = [&](Ready bad) {
        const Receiving recv = begin("a", 16);
        bad.grant = grant;
        mallory.say(bad);
        network.run_for(1s);
        const auto code = recv.code();
        answer_cancels();
        return code;
    };
    SetUpGuard();
    const auto make = [&](std::uint16_t part, TokenRange tokens, std::vector<std::int32_t> pages) {
        return Ready{{}, 0, part, tokens, std::move(pages), guard, 0};
    };
    EXPECT_EQ(code_of(make(1, {0, 16}, {0, 1, 2, 3})), Code::protocol);
    EXPECT_EQ(code_of(make(0, {0, 20}, {0, 1, 2, 3, 4})), Code::protocol);
    EXPECT_EQ(code_of(make(0, {0, 0}, {})), Code::protocol);
    EXPECT_EQ(code_of(make(0, {0, 16}, {0, 1, 2})), Code::invalid_argument);
    EXPECT_EQ(code_of(make(0, {0, 16}, {0, 1, 2, 256})), Code::invalid_argument);
    EXPECT_EQ(code_of(make(0, {0, 16}, {0, 1, 2, -1})), Code::invalid_argument);
    EXPECT_EQ(code_of(make(0, {UINT32_MAX - 1, UINT32_MAX}, {0})), Code::protocol);
}

TEST_F(HostileSender, MoreReadysThanTheGrantHasBytes) {
    SetUpGuard();
    const Receiving recv = begin("a", 16);
    mallory.say(ready(0, {0, 16}));
    mallory.say(ready(0, {0, 16}));
    network.run_for(1s);
    EXPECT_EQ(recv.code(), Code::protocol);
    answer_cancels();
}

TEST_F(HostileSender, ReadysOfEpochsToComeAreNotKept) {
    SetUpGuard();
    const Receiving recv = begin("a", 16);
    for (int i = 0; i < 100; ++i) mallory.say(ready(5, {0, 16}));
    mallory.say(mc::Rewind{grant, 5, 0});
    EXPECT_EQ(mallory.heard<Rewound>().size(), 1U);
    EXPECT_FALSE(recv.outcome());
    mallory.say(Fail{grant, Code::aborted, "enough"});
    network.run_for(1s);
    EXPECT_EQ(recv.code(), Code::aborted);
}

TEST_F(HostileSender, RewindReplays) {
    const Receiving recv = begin("a", 8);
    mallory.say(mc::Rewind{grant, 1, 0});
    EXPECT_EQ(mallory.heard<Rewound>().size(), 1U);
    mallory.say(mc::Rewind{grant, 1, 0});
    network.run_for(1s);
    EXPECT_EQ(recv.code(), Code::protocol);
    answer_cancels();
}

// A grant that waits for credit was never spoken of; its number is easily guessed.
TEST_F(HostileSender, SpeaksOfGrantsThatItWasNotAskedFor) {
    const Receiving first = begin("a", 8);
    Wish idle = wish("b", 0);
    idle.senders = {"mallory:1"};
    const Receiving second = Receiving::release(d, idle);
    network.run_for(1ms);
    ASSERT_EQ(mallory.heard<Recv>().size(), 1U) << "one credit";
    const GrantId unasked{grant.value + 1};
    mallory.say(Done{unasked, 0, 0, 0});
    mallory.say(Fail{unasked, Code::internal, "guess"});
    network.run_for(1s);
    EXPECT_FALSE(second.outcome());
    mallory.say(Fail{grant, Code::aborted, "enough"});
    network.run_for(1ms);
    EXPECT_EQ(first.code(), Code::aborted);
    ASSERT_EQ(mallory.heard<Recv>().size(), 2U) << "the credit came back";
    mallory.say(Done{unasked, 0, 0, 0});
    network.run_for(1s);
    EXPECT_TRUE(second.ok());
}

TEST_F(HostileSender, SpeaksOfGrantsThatAreNotItsOwn) {
    SetUpGuard();
    Sending send(p, "a");
    const Receiving recv(d, wish("a", 8));
    Receiving own = begin("b", 8);
    send.grow(4);
    network.run_for(1s);
    const GrantId own_grant = std::exchange(grant, first_grant_of(*d));
    ASSERT_NE(grant, own_grant);
    mallory.say(Fail{grant, Code::internal, "forged"});
    mallory.say(Data{grant, 0, 0, {0, 4}, 0, Bytes(64)});
    mallory.push({grant, 0, 0, {0, 4}, 0, Bytes(64)});
    mallory.say(ready(0, {0, 8}));
    mallory.say(mc::Rewind{grant, 1, 0});
    mallory.say(Done{grant, 0, 64, 0});
    mallory.end_lane(grant, 0);
    EXPECT_FALSE(recv.outcome());
    send.grow(8);
    send.finish();
    network.run_for(1s);
    EXPECT_TRUE(recv.ok());
    mallory.say(Fail{own_grant, Code::aborted, "enough"});
}

// The end of a lane says that nothing more comes on it; another peer's says nothing.
TEST_F(HostileSender, LaneEndsOfAnotherPeerDoNotCount) {
    Sending send(p, "a");
    const Receiving recv(d, wish("a", 8));
    Receiving own = begin("b", 8);
    network.run_for(1s);
    const GrantId others = first_grant_of(*d);
    network.wire = {100ms, 100ms};
    send.grow(4);
    network.run_for(10ms);
    send.rewind(0);
    for (int i = 0; i < 8; ++i) mallory.end_lane(others, 0);
    network.run_for(101ms);
    network.wire = {1us, 1us};
    send.grow(8);
    send.finish();
    network.run_for(1s);
    EXPECT_TRUE(recv.ok());
    mallory.say(Fail{grant, Code::aborted, "enough"});
}

TEST_F(HostileSender, AfterItsGrantEnded) {
    const Receiving recv = begin("a", 8);
    mallory.say(Fail{grant, Code::aborted, "enough"});
    network.run_for(1s);
    mallory.say(Data{grant, 0, 0, {0, 4}, 0, Bytes(64)});
    mallory.push({grant, 0, 0, {0, 4}, 0, Bytes(64)});
    mallory.say(Done{grant, 0, 0, 0});
    mallory.say(mc::Rewind{grant, 1, 0});
    mallory.say(Fail{grant, Code::aborted, "again"});
    mallory.say(Cancelled{grant});
    mallory.say(Known{grant});
    EXPECT_FALSE(mallory.cut_off());
    EXPECT_EQ(recv.code(), Code::aborted);
}

// Lengths whose sum overflows to that of the destination.
TEST_F(HostileSender, WriteWhoseLengthsWrapAround) {
    mallory.connect_and_greet("d:1");
    const auto target = reinterpret_cast<std::uint64_t>(d->writable.data());
    mallory.say(Write{TransferId{1}, 1000, {{target, 16}}, {{1, UINT64_MAX - 1}, {0, 18}}});
    EXPECT_EQ(mallory.heard<WriteRefused>().size(), 1U);
    mallory.say(Write{TransferId{2}, 1000, {{target, 16}}, {{1, 15}}});
    EXPECT_EQ(mallory.heard<WriteRefused>().size(), 2U);
}

}  // namespace
}  // namespace mc::simulation
