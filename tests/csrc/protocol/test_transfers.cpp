// SPDX-License-Identifier: Apache-2.0
// How a transfer goes when nothing goes wrong: matching, growing, rewinding, releasing.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "protocol/scenario.hpp"

namespace mc::simulation {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::Optional;
using testing::Pair;

class Transfers : public EachWay {};
MC_FOR_EACH_WAY(Transfers);

TEST_P(Transfers, SendComesFirst) {
    Sending send(p, "a");
    send.grow(10);
    send.finish();
    network.run_for(1s);
    EXPECT_FALSE(send.outcome());
    Receiving recv(d, wish("a", 10));
    network.run_for(1s);
    EXPECT_TRUE(recv.ok());
    EXPECT_TRUE(send.outcome()->ok());
}

TEST_P(Transfers, RecvComesFirstAndTheSendIsKnownBeforeItsFirstPage) {
    Wish patient = wish("a", 10);
    patient.deadline = 100s;
    Receiving recv(d, patient);
    network.run_for(5s);
    EXPECT_EQ(p->sent("KNOWN"), 0U);
    Sending send(p, "a");
    network.run_for(50s);  // longer than an unknown tag may take
    EXPECT_EQ(p->sent("KNOWN"), 1U);
    EXPECT_THAT(p->matches, ElementsAre(Pair(send.id(), Optional(0U))));
    send.grow(10);
    send.finish();
    network.run_for(1s);
    EXPECT_TRUE(recv.ok());
    EXPECT_TRUE(send.outcome()->ok());
}

TEST_P(Transfers, StreamsWhatIsReadyInWholePages) {
    Receiving recv(d, wish("a", 23));
    Sending send(p, "a");
    const auto tokens_shipped = [&] {
        network.run_for(1s);
        return count_tokens(p->shipped);
    };
    send.grow(6);
    EXPECT_EQ(tokens_shipped(), 4U);
    send.append(20);
    EXPECT_EQ(tokens_shipped(), 4U) << "pages that are not ready yet may still be written to";
    send.mark_ready(20);
    EXPECT_EQ(tokens_shipped(), 20U);
    EXPECT_EQ(p->sent("DONE"), 0U);
    send.grow(23);
    EXPECT_EQ(tokens_shipped(), 23U) << "the last page may be a partial one";
    EXPECT_TRUE(recv.ok());
    EXPECT_FALSE(send.outcome()) << "nobody has said yet that the send is finished";
    send.finish();
    network.run_for(1s);
    EXPECT_TRUE(send.outcome()->ok());
}

TEST_P(Transfers, FirstTokenPastZeroIsNotShipped) {
    Sending send(p, "a");
    send.grow(40);
    send.finish();
    Wish late = wish("a", 40);
    late.first_token = 17;
    Receiving recv(d, late);
    network.run_for(1s);
    EXPECT_TRUE(recv.ok());
    EXPECT_THAT(p->matches, ElementsAre(Pair(send.id(), Optional(17U))));
    EXPECT_THAT(p->shipped, ElementsAre(TokenRange{17, 40}));
}

TEST_P(Transfers, PagesReadyBeforeTheyAreAppendedAreWaitedFor) {
    Receiving recv(d, wish("a", 16));
    Sending send(p, "a");
    send.append(4);
    send.mark_ready(16);
    network.run_for(1s);
    send.append(16);
    send.finish();
    network.run_for(1s);
    EXPECT_TRUE(recv.ok());
}

TEST_P(Transfers, RowsComeOnlyWithTheEnd) {
    Wish both = wish("a", 8);
    both.rows = 3;
    Receiving recv(d, both);
    Sending send(p, "a");
    send.grow(8);
    network.run_for(1s);
    EXPECT_THAT(p->shipped, ElementsAre(TokenRange{0, 8}));
    send.finish(3);
    network.run_for(1s);
    EXPECT_TRUE(recv.ok());
    EXPECT_TRUE(send.outcome()->ok());
}

TEST_P(Transfers, EqualTagsPairFirstComeFirstServed) {
    Sending first(p, "a");
    Sending second(p, "a");
    first.grow(4);
    first.finish();
    second.grow(8);
    second.finish();
    Receiving small(d, wish("a", 4));
    Receiving large(d, wish("a", 8));
    network.run_for(1s);
    EXPECT_TRUE(small.ok());
    EXPECT_TRUE(large.ok());
    EXPECT_THAT(p->matches,
                ElementsAre(Pair(first.id(), Optional(0U)), Pair(second.id(), Optional(0U))));
}

TEST_P(Transfers, EveryReceiverOfASendGetsItAll) {
    Wish left = wish("a", 12);
    left.request = 7;
    left.count = 2;
    Wish right = left;
    right.index = 1;
    Receiving one(d, left);
    Sending send(p, "a");
    send.grow(12);
    send.finish();
    network.run_for(1s);
    EXPECT_TRUE(one.ok());
    EXPECT_FALSE(send.outcome()) << "one of two receivers has not come";
    Receiving other(d, right);
    network.run_for(1s);
    EXPECT_TRUE(other.ok());
    EXPECT_TRUE(send.outcome()->ok());
}

// Ranks of two requests with one tag arrive mixed, before either send.
TEST_P(Transfers, RanksOfARequestStayTogetherHoweverTheyCome) {
    std::vector<Receiving> recvs;
    const auto come = [&](std::uint64_t request, std::uint32_t index, std::uint32_t tokens) {
        Wish rank = wish("a", tokens);
        rank.request = request;
        rank.index = index;
        rank.count = 2;
        recvs.emplace_back(d, rank);
        network.run_for(1ms);
    };
    come(7, 0, 4);
    come(8, 0, 8);
    come(7, 1, 4);
    come(8, 1, 8);
    Sending first(p, "a");
    first.grow(4);
    first.finish();
    network.run_for(1s);
    EXPECT_TRUE(recvs[0].ok());
    EXPECT_TRUE(recvs[2].ok());
    EXPECT_TRUE(first.outcome() && first.outcome()->ok());
    EXPECT_FALSE(recvs[1].outcome());
    Sending second(p, "a");
    second.grow(8);
    second.finish();
    network.run_for(1s);
    for (const Receiving& recv : recvs) EXPECT_TRUE(recv.ok());
}

TEST_P(Transfers, ReleaseEndsASendThatNobodyNeeds) {
    Sending send(p, "a");
    send.grow(8);
    Receiving recv = Receiving::release(d, wish("a", 8));
    network.run_for(1s);
    EXPECT_TRUE(recv.ok());
    EXPECT_TRUE(p->shipped.empty());
    EXPECT_FALSE(send.outcome());
    EXPECT_THAT(p->matches, ElementsAre(Pair(send.id(), testing::Eq(std::nullopt))));
    send.finish();
    network.run_for(1s);
    EXPECT_TRUE(send.outcome()->ok());
}

TEST_P(Transfers, OneSessionCarriesManyTransfers) {
    std::vector<Sending> sends;
    std::vector<Receiving> recvs;
    for (std::uint32_t i = 0; i < 40; ++i) {
        const std::string tag = "tag " + std::to_string(i);
        recvs.emplace_back(d, wish(tag, 1 + i % 13));
        sends.emplace_back(p, tag).grow(1 + i % 13);
        sends.back().finish();
    }
    network.run_for(1s);
    for (const Receiving& recv : recvs) EXPECT_TRUE(recv.ok());
    EXPECT_EQ(d->sent("HELLO"), 1U);
    EXPECT_EQ(d->sent("PLAN"), 1U) << "pools pair once, not for each request";
}

TEST_P(Transfers, AnEngineCanFetchFromItself) {
    Sending send(p, "a");
    send.grow(12);
    send.finish();
    Receiving recv(p, wish("a", 12));
    network.run_for(1s);
    EXPECT_TRUE(recv.ok());
    EXPECT_TRUE(send.outcome()->ok());
}

TEST_P(Transfers, BothDirectionsAtOnce) {
    Sending there(p, "a");
    Sending back(d, "a");
    Receiving here(d, wish("a", 12));
    Receiving yonder(p, {.senders = {"d:1"}, .tag = "a", .tokens = 9});
    there.grow(12);
    there.finish();
    back.grow(9);
    back.finish();
    network.run_for(1s);
    EXPECT_TRUE(here.ok());
    EXPECT_TRUE(yonder.ok());
}

// --- Digests ----------------------------------------------------------------------------------

class Verified : public EachWay {
  protected:
    void SetUp() override {
        EachWay::SetUp();
        NodeOptions options = d->options;
        options.protocol.verify = true;
        d.reset();
        d = Node::start(network, "d:1", options);
    }
};
MC_FOR_EACH_WAY(Verified);

TEST_P(Verified, CompletesWhenTheDigestsAgree) {
    Receiving recv(d, wish("a", 23));
    Sending send(p, "a");
    send.grow(9);
    network.run_for(1s);
    send.rewind(4);
    send.grow(23);
    send.finish();
    network.run_for(1s);
    EXPECT_TRUE(recv.ok());
    EXPECT_GT(p->sent("DIGEST"), 0U);
}

TEST_P(Verified, FailsWhenTheyDiffer) {
    p->damages_digests = true;
    Receiving recv(d, wish("a", 23));
    Sending send(p, "a");
    send.grow(23);
    send.finish();
    network.run_for(1s);
    EXPECT_EQ(recv.code(), Code::internal);
    EXPECT_FALSE(send.outcome()->ok());
}

// Pages that are taken back while they are compared are compared again.
TEST_P(Verified, RewindWhileDigestsAreCompared) {
    Receiving recv(d, wish("a", 12));
    Sending send(p, "a");
    network.run_for(1s);
    send.grow(12);
    network.run_for(15us);
    network.work = {100ms, 100ms};
    network.run_for(10ms);
    send.rewind(0);
    send.grow(12);
    send.finish();
    network.run_for(3s);
    EXPECT_TRUE(recv.ok());
    EXPECT_TRUE(send.outcome()->ok());
}

// --- Very large ones --------------------------------------------------------------------------

class Large : public TwoNodes {
  protected:
    void start_with(Shape shape) {
        shape.layers = shape.heads = shape.page_size = 1;
        NodeOptions options;
        options.way = Way::pull;
        options.pools = {shape};
        start(options, options);
    }
    void SetUp() override {}
};

TEST_F(Large, MorePagesThanOneMessageHolds) {
    constexpr std::uint32_t kTokens = kMaxPagesPerMessage + 5;
    start_with({.page_count = kTokens});
    Receiving recv(d, wish("a", kTokens));
    Sending send(p, "a");
    send.grow(kTokens);
    send.finish();
    network.run_for(1s);
    EXPECT_TRUE(recv.ok());
    EXPECT_EQ(p->sent("READY"), 2U);
}

TEST_F(Large, MoreRangesThanOneMessageHoldsFailTheRecvAlone) {
    start_with({.page_count = 4 * kMaxRanges, .null_page = 0});
    Wish scattered = wish("a", 2 * kMaxRanges + 2);
    for (std::size_t i = 0; i < scattered.tokens; i += 2) scattered.null_pages.insert(i);
    Sending send(p, "a");
    send.finish();
    Receiving recv(d, scattered);
    network.run_for(1s);
    EXPECT_EQ(recv.code(), Code::invalid_argument);
    EXPECT_THAT(recv.outcome()->message(), HasSubstr("too scattered"));
}

// Nobody's patience overflows the clock.
TEST_F(Large, Patience) {
    start_with({});
    Sending send(p, "a", Duration::max());
    Wish eternal = wish("a", 8);
    eternal.deadline = Duration::max();
    Receiving recv(d, eternal);
    network.run_for(1000s);
    send.grow(8);
    send.finish();
    network.run_for(1s);
    EXPECT_TRUE(recv.ok());
}

}  // namespace
}  // namespace mc::simulation
