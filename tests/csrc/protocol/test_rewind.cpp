// SPDX-License-Identifier: Apache-2.0
// Pages of a send are taken back, in every state that a receiver can be in. What is received in the
// end comes from the new pages, or was complete before.
#include <gtest/gtest.h>

#include "protocol/scenario.hpp"

namespace mc::simulation {
namespace {

class Rewind : public EachWay {
  protected:
    void expect_success(const Sending& send, const Receiving& recv) {
        network.work = network.wire = {1us, 1us};
        network.run_for(2s);
        EXPECT_TRUE(recv.ok());
        ASSERT_TRUE(send.outcome());
        EXPECT_TRUE(send.outcome()->ok()) << send.outcome()->to_string();
    }
    static void grow_again_and_finish(Sending& send) {
        send.grow(12);
        send.finish();
    }
};
MC_FOR_EACH_WAY(Rewind);

TEST_P(Rewind, BeforeAReceiverCame) {
    Sending send(p, "a");
    send.grow(8);
    send.rewind(3);
    send.rewind(0);
    grow_again_and_finish(send);
    Receiving recv(d, wish("a", 12));
    expect_success(send, recv);
}

TEST_P(Rewind, BeforeAnythingWasShipped) {
    Receiving recv(d, wish("a", 12));
    Sending send(p, "a");
    send.append(8);
    network.run_for(1s);
    send.rewind(0);
    grow_again_and_finish(send);
    expect_success(send, recv);
}

TEST_P(Rewind, WithShipmentsInFlight) {
    Receiving recv(d, wish("a", 12));
    Sending send(p, "a");
    network.run_for(1s);
    network.work = {100ms, 100ms};
    send.grow(8);
    network.run_for(10ms);
    EXPECT_EQ(count_tokens(p->shipped), 8U);
    send.rewind(4);
    send.grow(8);
    network.run_for(10ms);
    EXPECT_EQ(count_tokens(p->shipped), 8U) << "nothing is shipped before REWOUND";
    grow_again_and_finish(send);
    expect_success(send, recv);
    EXPECT_EQ(p->sent("REWIND"), 1U);
}

TEST_P(Rewind, WithBytesOnTheWire) {
    Receiving recv(d, wish("a", 12));
    Sending send(p, "a");
    network.run_for(1s);
    network.wire = {100ms, 900ms};
    send.grow(8);
    network.run_for(10ms);
    send.rewind(0);
    grow_again_and_finish(send);
    network.run_for(10s);
    expect_success(send, recv);
}

TEST_P(Rewind, AfterDone) {
    Receiving recv(d, wish("a", 12));
    Sending send(p, "a");
    network.run_for(1s);
    network.wire = {100ms, 100ms};
    send.grow(12);
    network.run_for(50ms);
    ASSERT_EQ(p->sent("DONE"), 1U);
    send.rewind(8);
    grow_again_and_finish(send);
    expect_success(send, recv);
}

// The node itself fails the test if REWOUND is said while bytes of the old epoch may be placed.
TEST_P(Rewind, AfterDoneWithBytesOnTheWire) {
    Receiving recv(d, wish("a", 12));
    Sending send(p, "a");
    network.run_for(1s);
    network.lanes = Delay{500ms, 500ms};
    send.grow(12);
    network.run_for(50ms);
    ASSERT_EQ(p->sent("DONE"), 1U);
    network.work = {100ms, 100ms};
    network.run_for(420ms);
    send.rewind(0);
    network.run_for(90ms);
    if (GetParam() == Way::push) {
        EXPECT_EQ(d->sent("REWOUND"), 0U) << "bytes are on the lanes";
    }
    network.lanes.reset();
    grow_again_and_finish(send);
    network.run_for(2s);
    expect_success(send, recv);
}

TEST_P(Rewind, AfterReceived) {
    Receiving recv(d, wish("a", 12));
    Sending send(p, "a");
    send.grow(12);
    network.run_for(1s);
    EXPECT_TRUE(recv.ok());
    send.rewind(8);
    grow_again_and_finish(send);
    expect_success(send, recv);
    EXPECT_EQ(p->sent("REWIND"), 0U);
}

TEST_P(Rewind, AgainBeforeTheFirstIsAnswered) {
    Receiving recv(d, wish("a", 12));
    Sending send(p, "a");
    send.grow(8);
    network.run_for(1s);
    network.wire = {100ms, 100ms};
    send.rewind(4);
    network.run_for(10ms);
    send.grow(8);
    send.rewind(0);
    network.run_for(10ms);
    send.rewind(0);
    EXPECT_EQ(p->sent("REWIND"), 1U) << "one at a time";
    grow_again_and_finish(send);
    expect_success(send, recv);
    EXPECT_EQ(p->sent("REWIND"), 2U) << "the last one covers those before it";
}

// The pages are void from the caller's call on; the protocol hears of it a little later, and may
// meanwhile be told that a shipment was refused for it.
TEST_P(Rewind, IsNoFailureThoughShipmentsHearOfItFirst) {
    Receiving recv(d, wish("a", 12));
    Sending send(p, "a");
    network.run_for(1s);
    network.work = {1ms, 1ms};
    send.grow(8);
    send.rewind(4, {20ms, 20ms});
    network.run_for(10ms);
    send.mark_ready(8);
    network.run_for(1s);
    EXPECT_FALSE(recv.outcome()) << recv.outcome()->to_string();
    grow_again_and_finish(send);
    expect_success(send, recv);
}

TEST_P(Rewind, ThenAbort) {
    Receiving recv(d, wish("a", 12));
    Sending send(p, "a");
    send.grow(8);
    network.run_for(1s);
    network.wire = {100ms, 100ms};
    send.rewind(4);
    network.run_for(10ms);
    send.abort();
    network.run_for(2s);
    EXPECT_EQ(recv.code(), Code::aborted);
    EXPECT_EQ(send.outcome()->code(), Code::aborted);
}

TEST_P(Rewind, ThenCancel) {
    Receiving recv(d, wish("a", 12));
    Sending send(p, "a");
    send.grow(8);
    network.run_for(1s);
    network.wire = {100ms, 100ms};
    send.rewind(4);
    network.run_for(110ms);
    recv.cancel();
    send.grow(12);
    send.finish();
    network.run_for(2s);
    EXPECT_EQ(recv.code(), Code::aborted);
    EXPECT_EQ(send.outcome()->code(), Code::aborted);
}

// After everything was taken back, the next pages may begin elsewhere.
TEST_P(Rewind, ToNothingForgetsWhereThePagesBegan) {
    Memory& memory = p->memory();
    const std::vector<std::int32_t> pages = memory.take(3);
    const TransferId send = p->open_send("a", 60s);
    Senders& senders = p->exchange().senders();
    senders.append(send, memory.pool(), std::span(pages).first(1), 0);
    senders.rewind(send, 0, p->take_back(send));
    memory.fill("a", std::span(pages).subspan(1), 4);
    senders.append(send, memory.pool(), std::span(pages).subspan(1), 4);
    senders.mark_ready(send, 12);
    senders.finish(send);
    Wish late = wish("a", 12);
    late.first_token = 4;
    Receiving recv(d, late);
    network.run_for(1s);
    EXPECT_TRUE(recv.ok());
}

TEST_P(Rewind, ConcernsAllReceivers) {
    Wish rank = wish("a", 12);
    rank.request = 7;
    rank.count = 2;
    Receiving one(d, rank);
    Sending send(p, "a");
    send.grow(8);
    network.run_for(1s);
    network.wire = {1ms, 50ms};
    send.rewind(0);
    rank.index = 1;
    Receiving other(d, rank);
    grow_again_and_finish(send);
    network.run_for(1s);
    EXPECT_TRUE(one.ok());
    expect_success(send, other);
}

}  // namespace
}  // namespace mc::simulation
