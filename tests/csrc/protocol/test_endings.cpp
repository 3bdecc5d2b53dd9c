// SPDX-License-Identifier: Apache-2.0
// How transfers end when they do not end well: in time, with the reason, with everything returned.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "protocol/scenario.hpp"

namespace mc::simulation {
namespace {

using testing::HasSubstr;

class Endings : public EachWay {};
MC_FOR_EACH_WAY(Endings);

// --- Deadlines --------------------------------------------------------------------------------

TEST_P(Endings, ReceiverGivesUpAtItsDeadline) {
    Wish hasty = wish("a", 8);
    hasty.deadline = 3s;
    Sending send(p, "a");
    send.grow(4);
    Receiving recv(d, hasty);
    network.run_for(2900ms);
    EXPECT_FALSE(recv.outcome());
    network.run_for(200ms);
    EXPECT_EQ(recv.code(), Code::timeout);
    EXPECT_THAT(recv.outcome()->message(), HasSubstr("deadline"));
    EXPECT_EQ(p->exchange().senders().grants(), 0U) << "the sender has heard of it";
    send.finish();
    network.run_for(1s);
    EXPECT_FALSE(send.outcome()->ok());
}

// The sender alone keeps the receiver's deadline too: CANCEL may never come.
TEST_P(Endings, SenderKeepsTheReceiversDeadline) {
    Wish hasty = wish("a", 8);
    hasty.deadline = 1s;
    Sending send(p, "a");
    send.grow(4);
    Receiving recv(d, hasty);
    network.run_for(500ms);
    d->freeze();
    network.run_for(700ms);
    EXPECT_EQ(p->exchange().senders().grants(), 0U);
    EXPECT_EQ(p->sent("FAIL"), 1U);
    d->thaw();
    network.run_for(1s);
    EXPECT_EQ(recv.code(), Code::timeout);
    send.finish();
    network.run_for(1s);
    EXPECT_EQ(send.outcome()->code(), Code::timeout);
}

// Its time runs while the RECV waits for the tag, too.
TEST_P(Endings, SenderKeepsTheDeadlineOfAParkedRecv) {
    Wish hasty = wish("a", 8);
    hasty.deadline = 3s;
    Receiving recv(d, hasty);
    network.run_for(2s);
    Sending send(p, "a");
    send.grow(4);
    network.run_for(500ms);
    EXPECT_EQ(p->exchange().senders().grants(), 1U);
    d->freeze();
    network.run_for(700ms);
    EXPECT_EQ(p->exchange().senders().grants(), 0U);
    EXPECT_EQ(p->sent("FAIL"), 1U);
    d->thaw();
    send.finish();
    network.run_for(1s);
    EXPECT_EQ(recv.code(), Code::timeout);
}

// A receiver that gave up while CANCEL was delayed does not get the send that another one waits
// for.
TEST_P(Endings, ParkedRecvEndsAtItsDeadline) {
    Wish hasty = wish("a", 8);
    hasty.deadline = 1s;
    Receiving late(d, hasty);
    network.run_for(900ms);
    network.wire = {1s, 1s};
    network.run_for(200ms);
    EXPECT_EQ(late.code(), Code::timeout);
    EXPECT_EQ(p->exchange().senders().parked(), 0U) << "before CANCEL came";
    Sending send(p, "a");
    send.grow(8);
    send.finish();
    Receiving recv(d, wish("a", 8));
    network.run_for(10s);
    EXPECT_TRUE(recv.ok());
    EXPECT_TRUE(send.outcome()->ok());
}

// The session still greets, so no RECV was sent; the send does not keep its pages for nothing.
TEST_P(Endings, CancelLetsSendersGoThatWereNeverAsked) {
    Sending send(p, "a");
    send.grow(8);
    send.finish();
    Receiving recv(d, wish("a", 8));
    recv.cancel();
    EXPECT_EQ(recv.code(), Code::aborted);
    network.run_for(1s);
    EXPECT_TRUE(send.outcome()->ok());
}

TEST_P(Endings, FinishedSendGivesUpWhenNobodyComes) {
    Sending send(p, "a", 5s);
    send.grow(8);
    network.run_for(100s);
    EXPECT_FALSE(send.outcome()) << "before it is finished it waits for its owner";
    send.finish();
    network.run_for(4900ms);
    EXPECT_FALSE(send.outcome());
    network.run_for(200ms);
    EXPECT_EQ(send.outcome()->code(), Code::timeout);
    EXPECT_THAT(send.outcome()->message(), HasSubstr("no receiver came"));
}

TEST_P(Endings, UnknownTagFailsAtTheUnknownTimeout) {
    Receiving recv(d, {.senders = {"p:1"}, .tag = "a", .tokens = 8, .deadline = 100s});
    network.run_for(29900ms);
    EXPECT_FALSE(recv.outcome());
    network.run_for(200ms);
    EXPECT_EQ(recv.code(), Code::timeout);
    EXPECT_THAT(recv.outcome()->message(), HasSubstr("no send with this tag"));
}

TEST_P(Endings, LateRecvHearsWhyTheSendEnded) {
    Sending send(p, "a");
    send.abort("the prompt was too long");
    network.run_for(1s);
    Receiving recv(d, wish("a", 8));
    network.run_for(1s);
    EXPECT_EQ(recv.code(), Code::aborted);
    EXPECT_THAT(recv.outcome()->message(), HasSubstr("the prompt was too long"));
}

// Between the abort and the moment when nobody reads the pages any more.
TEST_P(Endings, RecvHearsWhyTheSendIsEnding) {
    Receiving first(d, wish("other", 4));
    network.run_for(1s);
    Sending send(p, "a");
    network.work = {10s, 10s};
    send.abort("the prompt was too long");
    Receiving recv(d, wish("a", 8));
    network.run_for(1s);
    EXPECT_EQ(d->exchange().senders().parked(), 0U);
    EXPECT_EQ(p->exchange().senders().parked(), 1U) << "only the RECV of an unknown tag";
    first.cancel();
    network.work = {1us, 1us};
    network.run_for(10s);
    EXPECT_EQ(recv.code(), Code::aborted);
}

TEST_P(Endings, NewSendWithTheTagOfAFailedOneIsAwaited) {
    Sending failed(p, "a");
    failed.abort();
    network.run_for(1s);
    Sending send(p, "a");
    Receiving recv(d, wish("a", 8));
    send.grow(8);
    send.finish();
    network.run_for(1s);
    EXPECT_TRUE(recv.ok());
}

// --- What the sender does not have ------------------------------------------------------------

TEST_P(Endings, SenderThatFinishesShortOfWhatIsWanted) {
    Receiving recv(d, wish("a", 20));
    Sending send(p, "a");
    send.grow(13);
    send.finish();
    network.run_for(1s);
    EXPECT_EQ(recv.code(), Code::invalid_argument);
    EXPECT_THAT(recv.outcome()->message(), HasSubstr("13 tokens, the receiver wants 20"));
    EXPECT_FALSE(send.outcome()->ok());
}

TEST_P(Endings, SenderWithoutThePool) {
    Wish both = wish("a", 8);
    both.rows = 2;
    Receiving recv(d, both);
    Sending send(p, "a");
    send.grow(8);
    send.finish();
    network.run_for(1s);
    EXPECT_EQ(recv.code(), Code::invalid_argument);
    EXPECT_THAT(recv.outcome()->message(), HasSubstr("\"aux\""));
}

class NullPages : public TwoNodes {
  protected:
    void SetUp() override {
        NodeOptions options;
        options.pools = {Shape{.null_page = 0}};
        start(options, options);
    }
};

TEST_F(NullPages, AreNotAskedForByTheReceiver) {
    Wish windowed = wish("a", 20);
    windowed.null_pages = {0, 2};
    Receiving recv(d, windowed);
    Sending send(p, "a");
    send.null_pages = {0, 2};
    send.grow(20);
    send.finish();
    network.run_for(1s);
    EXPECT_TRUE(recv.ok());
    EXPECT_THAT(p->shipped, testing::ElementsAre(TokenRange{4, 8}, TokenRange{12, 20}));
}

TEST_F(NullPages, OfTheSenderFailWhoeverWantsThem) {
    Receiving recv(d, wish("a", 20));
    Sending send(p, "a");
    send.null_pages = {2};
    send.grow(20);
    send.finish();
    network.run_for(1s);
    EXPECT_EQ(recv.code(), Code::invalid_argument);
    EXPECT_THAT(recv.outcome()->message(), HasSubstr("no longer holds"));
}

// --- At any moment ----------------------------------------------------------------------------

enum class Event {
    cancel,
    abort,
    loss,
    sender_crash,
    receiver_crash,
    sender_sleep,
    receiver_sleep
};

class AnyMoment : public testing::TestWithParam<std::tuple<Way, Event>> {};

// The same short transfer over and over, and each time the event comes a little later.
TEST_P(AnyMoment, EndsBothSides) {
    const auto [way, event] = GetParam();
    std::size_t completed = 0;
    for (Duration moment = 0ms; moment < 40ms; moment += 250us) {
        SCOPED_TRACE("after " + std::to_string(to_seconds(moment) * 1000) + " ms");
        Network network;
        network.wire = network.work = {1ms, 1ms};
        NodeOptions options;
        options.way = way;
        options.protocol.hello_timeout = 2s;
        auto p = Node::start(network, "p:1", options);
        auto d = Node::start(network, "d:1", options);
        Receiving recv(d, {.senders = {"p:1"}, .tag = "a", .tokens = 12});
        Sending send(p, "a", 4s);
        const auto at = [&](Duration when, std::function<void()> step) {
            network.after({when, when}, std::move(step));
        };
        at(6ms, [&] { send.grow(8); });
        at(9ms, [&] { send.rewind(4); });
        at(15ms, [&] { send.grow(12); });
        at(17ms, [&] { send.finish(); });
        at(moment, [&, event = event] {
            switch (event) {
                case Event::cancel: recv.cancel(); break;
                case Event::abort: send.abort(); break;
                case Event::loss: p->lose_connections(); break;
                case Event::sender_crash:
                    p->crash();
                    p.reset();
                    break;
                case Event::receiver_crash:
                    d->crash();
                    d.reset();
                    break;
                case Event::sender_sleep: p->freeze(); break;
                case Event::receiver_sleep: d->freeze(); break;
            }
        });
        network.run_for(4500ms);
        if (event != Event::receiver_sleep && d) {
            ASSERT_TRUE(recv.outcome());
            completed += recv.ok() ? 1 : 0;
        }
        if (event != Event::sender_sleep && p) {
            EXPECT_TRUE(send.outcome());
        }
        for (const auto& node : {p, d}) {
            if (node) node->thaw();
        }
        network.run_for(4500ms);
        for (const auto& node : {p, d}) {
            if (node) {
                EXPECT_EQ(node->leftovers(), "");
            }
        }
        if (p) {
            EXPECT_TRUE(send.outcome());
        }
        if (d) {
            EXPECT_TRUE(recv.outcome());
        }
        if (HasFailure()) return;
    }
    const bool receiver_gone = event == Event::receiver_crash || event == Event::receiver_sleep;
    EXPECT_TRUE(completed > 0 || receiver_gone) << "none of the events came after the end";
}

INSTANTIATE_TEST_SUITE_P(
    All, AnyMoment,
    testing::Combine(testing::Values(Way::push, Way::inline_data, Way::pull),
                     testing::Values(Event::cancel, Event::abort, Event::loss, Event::sender_crash,
                                     Event::receiver_crash, Event::sender_sleep,
                                     Event::receiver_sleep)));

TEST_P(Endings, CancelOfOneReceiverLeavesTheOthersAlone) {
    Wish rank = wish("a", 12);
    rank.request = 7;
    rank.count = 2;
    Receiving one(d, rank);
    rank.index = 1;
    Receiving other(d, rank);
    Sending send(p, "a");
    send.grow(8);
    network.run_for(1s);
    one.cancel();
    network.run_for(1s);
    send.grow(12);
    send.finish();
    network.run_for(1s);
    EXPECT_EQ(one.code(), Code::aborted);
    EXPECT_TRUE(other.ok());
    EXPECT_EQ(send.outcome()->code(), Code::aborted) << "not all receivers have it";
}

// --- Several senders of one recv --------------------------------------------------------------

class SeveralSenders : public EachWay {
  protected:
    void SetUp() override {
        EachWay::SetUp();
        options.way = GetParam();
        lower = start_with("lower:1", {.first_layer = 0, .layers = 1, .page_size = 8});
        upper = start_with("upper:1", {.first_layer = 1, .layers = 1, .page_size = 2});
    }
    void TearDown() override {
        EachWay::TearDown();
        for (const auto& node : {lower, upper}) {
            if (node) {
                EXPECT_EQ(node->leftovers(), "");
            }
        }
    }
    std::shared_ptr<Node> start_with(const std::string& address, const Shape& shape) {
        options.pools = {shape};
        return Node::start(network, address, options);
    }
    static Wish wish_of_both(const std::string& tag) {
        return {.senders = {"lower:1", "upper:1"}, .tag = tag, .tokens = 21};
    }

    NodeOptions options;
    std::shared_ptr<Node> lower, upper;
};
MC_FOR_EACH_WAY(SeveralSenders);

TEST_P(SeveralSenders, EachGivesItsLayers) {
    Receiving recv(d, wish_of_both("a"));
    Sending one(lower, "a");
    Sending other(upper, "a");
    one.grow(21);
    one.finish();
    network.run_for(1s);
    EXPECT_FALSE(recv.outcome());
    other.grow(21);
    other.finish();
    network.run_for(1s);
    EXPECT_TRUE(recv.ok());
    EXPECT_TRUE(one.outcome()->ok());
    EXPECT_TRUE(other.outcome()->ok());
}

TEST_P(SeveralSenders, ThoseWhoAreNotNeededAreReleased) {
    const auto copy = start_with("copy:1", {.first_layer = 0, .layers = 1});
    Wish three = wish_of_both("a");
    three.senders.push_back("copy:1");
    Receiving recv(d, three);
    Sending one(lower, "a");
    Sending other(upper, "a");
    Sending spare(copy, "a");
    for (Sending* send : {&one, &other, &spare}) {
        send->grow(21);
        send->finish();
    }
    network.run_for(1s);
    EXPECT_TRUE(recv.ok());
    for (Sending* send : {&one, &other, &spare}) EXPECT_TRUE(send->outcome()->ok());
    EXPECT_TRUE(lower->shipped.empty() != copy->shipped.empty()) << "one of the two is enough";
    EXPECT_EQ(copy->leftovers(), "");
}

TEST_P(SeveralSenders, FailureOfOneEndsTheRecvAndTheOthers) {
    Receiving recv(d, wish_of_both("a"));
    Sending one(lower, "a");
    Sending other(upper, "a");
    one.grow(16);
    other.grow(16);
    network.run_for(1s);
    other.abort("preempted for good");
    network.run_for(1s);
    EXPECT_EQ(recv.code(), Code::aborted);
    EXPECT_EQ(lower->exchange().senders().grants(), 0U);
    one.finish();
    network.run_for(1s);
    EXPECT_EQ(one.outcome()->code(), Code::aborted);
}

TEST_P(SeveralSenders, FailureAfterOneHasDelivered) {
    Receiving recv(d, wish_of_both("a"));
    Sending one(lower, "a");
    one.grow(21);
    one.finish();
    network.run_for(1s);
    EXPECT_TRUE(one.outcome()->ok());
    upper->crash();
    upper.reset();
    network.run_for(1s);
    EXPECT_EQ(recv.code(), Code::peer_lost);
}

TEST_P(SeveralSenders, LayersThatNobodyHas) {
    Wish half = wish_of_both("a");
    half.senders = {"lower:1"};
    Sending send(lower, "a");
    send.finish();
    Receiving recv(d, half);
    network.run_for(1s);
    EXPECT_EQ(recv.code(), Code::layout_mismatch);
    EXPECT_TRUE(send.outcome()->ok()) << "nobody would come for its pages";
}

}  // namespace
}  // namespace mc::simulation
