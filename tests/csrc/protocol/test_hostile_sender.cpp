// SPDX-License-Identifier: Apache-2.0
// Senders that break the rules: whatever they say costs them their session or their transfer,
// and nobody else anything.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "protocol/scenario.hpp"
#include "protocol/stranger.hpp"

namespace mc::simulation {
namespace {

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
    const GrantId own_grant = std::exchange(grant, d->first_grant());
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
    for (int i = 0; i < 8; ++i) mallory.end_lane(d->first_grant(), 0);
    network.lanes = {500ms, 500ms};
    send.grow(4);
    network.run_for(10ms);
    send.rewind(0);
    network.run_for(10ms);
    EXPECT_EQ(d->sent("REWOUND"), 0U) << "the sender's own lanes have yet to end";
    network.run_for(1s);
    EXPECT_EQ(d->sent("REWOUND"), 1U);
    network.lanes.reset();
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
