// SPDX-License-Identifier: Apache-2.0
// Numbers at the ends of their ranges, numbers of others, and words about grants that have expired:
// they cost their sender, and nobody else, a transfer or a session.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "protocol/scenario.hpp"
#include "protocol/stranger.hpp"

namespace mc::simulation {
namespace {

using testing::IsEmpty;
using testing::SizeIs;

class Hostile : public TwoNodes {
  protected:
    void SetUp() override {
        NodeOptions options;
        start(options, options);
        mallory.hello.pools = {p->memory().pool()};
    }
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

// Mallory asks p for things.
class HostileAsker : public Hostile {
  protected:
    void SetUp() override {
        Hostile::SetUp();
        mallory.connect_and_greet("p:1");
    }
    void say_plan() {
        const Pool* pool = &p->memory().pool();
        mallory.say(Plan{PlanId{1}, "kv", match_pools({&pool, 1}, *pool)->front()});
    }
    static Recv recv(std::uint64_t grant, const std::string& tag, std::vector<TokenRange> wanted,
                     std::uint32_t remaining_ms = 10000) {
        return {.grant = GrantId{grant},
                .request = grant,
                .tag = tag,
                .remaining_ms = remaining_ms,
                .parts = {{PlanId{1}, std::move(wanted)}}};
    }
    Code answer_to(const Read& read) {
        mallory.say(read);
        const auto fails = mallory.heard<Fail>();
        return fails.empty() || fails.back().grant != read.grant ? Code::ok : fails.back().code;
    }
};

TEST_F(HostileAsker, TokensThatNoSendHas) {
    say_plan();
    const std::vector<std::vector<TokenRange>> wishes{
        {{0, UINT32_MAX}}, {{UINT32_MAX - 1, UINT32_MAX}}, {{0, 8}, {UINT32_MAX - 1, UINT32_MAX}}};
    std::uint64_t grant = 0;
    for (const auto& wanted : wishes) {
        const std::string tag = "tag " + std::to_string(++grant);
        Sending send(p, tag);
        send.grow(8);
        Recv asked = recv(grant, tag, wanted, UINT32_MAX);
        asked.request = UINT64_MAX;
        asked.segment_bytes = UINT64_MAX;
        mallory.say(asked);
        send.finish();
        network.run_for(1s);
        ASSERT_THAT(mallory.heard<Fail>(), SizeIs(grant));
        EXPECT_THAT(mallory.heard<Done>(), IsEmpty());
        EXPECT_FALSE(send.outcome()->ok());
    }
    EXPECT_FALSE(mallory.cut_off());
    expect_others_undisturbed();
}

TEST_F(HostileAsker, ReceiversWithoutEnd) {
    say_plan();
    Sending send(p, "a");
    send.grow(8);
    Recv first = recv(1, "a", {{0, 8}});
    first.receiver_index = (1U << 20) - 1;
    first.receiver_count = 1U << 20;
    mallory.say(first);
    send.finish();
    network.run_for(1s);
    EXPECT_FALSE(send.outcome()) << "all but one have yet to come";
    send.abort();
    network.run_for(1s);
    EXPECT_EQ(send.outcome()->code(), Code::aborted);
}

TEST_F(HostileAsker, ReadsAtEveryEdge) {
    const auto base = reinterpret_cast<std::uint64_t>(p->readable.data());
    const std::uint64_t size = p->readable.size();
    const std::vector<std::vector<Segment>> lists{{{base, size + 1}},
                                                  {{base + size, 1}},
                                                  {{base - 1, 1}},
                                                  {{base, UINT64_MAX - base}},
                                                  {{0, UINT64_MAX}},
                                                  {{base, size}, {UINT64_MAX, 1}},
                                                  {{base, size}, {1, UINT64_MAX - 1}},
                                                  {{UINT64_MAX, 0}, {0, size}}};
    std::uint64_t grant = 0;
    for (const auto& list : lists) {
        const Read read{GrantId{++grant}, UINT32_MAX, UINT64_MAX, false, list};
        // One that wraps around is no message at all.
        Bytes frame;
        encode(read, frame);
        const auto decoded = decode(std::span(frame).subspan(sizeof(std::uint32_t)));
        if (!decoded) continue;
        EXPECT_NE(answer_to(read), Code::ok) << "list " << grant;
    }
    EXPECT_THAT(p->shipped, IsEmpty());
    EXPECT_EQ(answer_to({GrantId{100}, 1000, 0, false, {{base, size}}}), Code::ok);
    EXPECT_THAT(p->shipped, SizeIs(1));
    mallory.say(Cancel{GrantId{100}});
}

TEST_F(HostileAsker, PoolsAreNotToBeReadOneSidedly) {
    for (const Plane& plane : p->memory().pool().planes)
        EXPECT_NE(answer_to({GrantId{plane.layer + 1}, 1000, 0, false, {{plane.base, 1}}}),
                  Code::ok);
    EXPECT_THAT(p->shipped, IsEmpty());
}

// Numbers of grants belong to their sessions.
TEST_F(HostileAsker, TheNumberOfAnothersGrantIsItsOwn) {
    Sending send(p, "a");
    const Receiving received(d, wish("a", 8));
    send.grow(4);
    network.run_for(1s);
    say_plan();
    mallory.say(recv(d->first_grant().value, "b", {{0, 8}}));
    EXPECT_FALSE(mallory.cut_off());
    EXPECT_EQ(p->exchange().senders().parked(), 1U);
    mallory.say(Cancel{d->first_grant()});
    EXPECT_EQ(p->exchange().senders().parked(), 0U);
    EXPECT_EQ(p->exchange().senders().grants(), 1U);
    send.grow(8);
    send.finish();
    network.run_for(1s);
    EXPECT_TRUE(received.ok());
}

TEST_F(HostileAsker, AnothersPlanIsUnknown) {
    Sending send(p, "a");
    const Receiving received(d, wish("a", 8));
    network.run_for(1s);  // d's plan number 1 is known
    mallory.say(recv(7, "a", {{0, 8}}));
    EXPECT_TRUE(mallory.refused_for_protocol());
    send.grow(8);
    send.finish();
    network.run_for(1s);
    EXPECT_TRUE(received.ok());
}

TEST_F(HostileAsker, AfterItsGrantExpired) {
    say_plan();
    Sending send(p, "a");
    send.grow(4);
    mallory.say(recv(1, "a", {{0, 8}}, 100));
    network.run_for(1s);
    ASSERT_THAT(mallory.heard<Fail>(), SizeIs(1));
    const std::size_t shipped = p->shipped.size();
    send.grow(8);
    mallory.say(Received{GrantId{1}});
    mallory.say(Rewound{GrantId{1}, 1});
    mallory.say(Cancel{GrantId{1}});
    network.run_for(1s);
    EXPECT_EQ(p->shipped.size(), shipped) << "more goes to a grant that has expired";
    EXPECT_THAT(mallory.heard<Cancelled>(), SizeIs(1));
    EXPECT_FALSE(mallory.cut_off());
    send.finish();
    network.run_for(1s);
    EXPECT_EQ(send.outcome()->code(), Code::timeout);
    expect_others_undisturbed();
}

// Mallory is asked by d for things.
class HostileProvider : public Hostile {
  protected:
    Receiving begin(std::uint32_t tokens, Duration deadline = 30s) {
        Wish from_mallory = wish("a", tokens);
        from_mallory.senders = {"mallory:1"};
        from_mallory.deadline = deadline;
        Receiving receiving(d, from_mallory);
        network.run_for(1ms);
        mallory.greet();
        grant = mallory.heard<Recv>().back().grant;
        return receiving;
    }

    GrantId grant;
};

TEST_F(HostileProvider, DoneOfMoreBytesThanThereAre) {
    const Receiving recv = begin(8);
    mallory.say(Done{grant, 0, UINT64_MAX, 0});
    network.run_for(1s);
    EXPECT_EQ(recv.code(), Code::protocol);
    EXPECT_THAT(mallory.heard<Received>(), IsEmpty());
    mallory.say(Cancelled{grant});
}

TEST_F(HostileProvider, LanesThatNeverEnd) {
    const Receiving recv = begin(8, 5s);
    mallory.say(Done{grant, 0, 0, UINT32_MAX});
    for (int i = 0; i < 40; ++i) {
        mallory.say(Pong{});
        network.run_for(100ms);
    }
    EXPECT_FALSE(recv.outcome());
    for (int i = 0; i < 20; ++i) {
        mallory.say(Pong{});
        network.run_for(100ms);
    }
    EXPECT_EQ(recv.code(), Code::timeout);
    mallory.say(Cancelled{grant});
}

// A sum of lanes that wraps around would say that the old epoch has ended.
TEST_F(HostileProvider, LanesWhoseSumWrapsAround) {
    const Receiving recv = begin(8);
    mallory.say(Done{grant, 0, 64, 1});
    mallory.say(mc::Rewind{grant, 1, UINT32_MAX});
    EXPECT_THAT(mallory.heard<Rewound>(), IsEmpty());
    mallory.say(Fail{grant, Code::aborted, "enough"});
    network.run_for(1s);
    EXPECT_EQ(recv.code(), Code::aborted);
}

TEST_F(HostileProvider, TheLastEpochIsTheLast) {
    const Receiving recv = begin(8);
    mallory.say(mc::Rewind{grant, UINT32_MAX, 0});
    EXPECT_THAT(mallory.heard<Rewound>(), SizeIs(1));
    mallory.say(mc::Rewind{grant, 0, 0});
    network.run_for(1s);
    EXPECT_EQ(recv.code(), Code::protocol);
    mallory.say(Cancelled{grant});
}

// The pages that were granted are somebody else's by then.
TEST_F(HostileProvider, AfterItsGrantExpired) {
    const Receiving recv = begin(8, 1s);
    for (int i = 0; i < 12; ++i) {
        mallory.say(Pong{});
        network.run_for(100ms);
    }
    ASSERT_EQ(recv.code(), Code::timeout);
    const std::size_t token = d->memory().pool().planes.size() * 16;
    mallory.say(Data{grant, 0, 0, {0, 8}, 0, Bytes(8 * token, 0x66)});
    mallory.push({grant, 0, 0, {0, 8}, 0, Bytes(8 * token, 0x66)});
    mallory.say(Ready{grant, 0, 0, {0, 8}, {0, 1}, 0, 0});
    mallory.say(Done{grant, 0, 8 * token, 0});
    mallory.end_lane(grant, 0);
    EXPECT_EQ(d->memory().trespasses(), 0U);
    EXPECT_THAT(mallory.heard<Received>(), IsEmpty());
    EXPECT_FALSE(mallory.cut_off());
    mallory.say(Cancelled{grant});
    expect_others_undisturbed();
}

}  // namespace
}  // namespace mc::simulation
