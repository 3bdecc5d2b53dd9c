// SPDX-License-Identifier: Apache-2.0
// Sessions: greetings, signs of life, restarts, credit.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "protocol/scenario.hpp"
#include "protocol/stranger.hpp"

namespace mc::simulation {
namespace {

using testing::HasSubstr;

class SessionTest : public TwoNodes {
  protected:
    const Session* session_of(Node& node) {
        const auto& all = node.exchange().sessions().all();
        return all.empty() ? nullptr : &all.begin()->second;
    }
};

// --- Greetings --------------------------------------------------------------------------------

TEST_F(SessionTest, NobodyListens) {
    Receiving recv(d, {.senders = {"nobody:1"}, .tag = "a", .tokens = 8});
    network.run_for(1s);
    EXPECT_EQ(recv.code(), Code::unreachable);
    EXPECT_TRUE(d->exchange().sessions().all().empty());
}

TEST_F(SessionTest, SilentListenerIsGivenUp) {
    const Stranger mute(network, "mute:1");
    Receiving recv(d, {.senders = {"mute:1"}, .tag = "a", .tokens = 8});
    network.run_for(4900ms);
    EXPECT_FALSE(recv.outcome());
    network.run_for(200ms);
    EXPECT_EQ(recv.code(), Code::unreachable);
    EXPECT_THAT(recv.outcome()->message(), HasSubstr("no handshake with mute:1"));
    EXPECT_TRUE(mute.cut_off());
}

TEST_F(SessionTest, SilentCallersAreCutOffAndDelayNobody) {
    std::vector<std::unique_ptr<Stranger>> mutes;
    for (int i = 0; i < 100; ++i) {
        mutes.push_back(std::make_unique<Stranger>(network, "mute:" + std::to_string(i)));
        mutes.back()->connect("p:1");
    }
    Sending send(p, "a");
    send.grow(8);
    send.finish();
    Receiving recv(d, wish("a", 8));
    network.run_for(1s);
    EXPECT_TRUE(recv.ok());
    network.run_for(6s);
    for (const auto& mute : mutes) EXPECT_TRUE(mute->cut_off());
    EXPECT_EQ(p->exchange().sessions().all().size(), 1U);
}

TEST_F(SessionTest, AnythingBeforeHelloIsRefused) {
    Stranger rude(network, "rude:1");
    rude.connect("p:1");
    rude.say(Ping{1});
    EXPECT_TRUE(rude.refused_for_protocol());
}

TEST_F(SessionTest, HelloOnlyOnce) {
    Stranger eager(network, "eager:1");
    eager.connect_and_greet("p:1");
    eager.greet();
    EXPECT_TRUE(eager.refused_for_protocol());
}

TEST_F(SessionTest, HelloMustBeUnderstood) {
    const auto refusal = [&](const std::function<void(Hello&)>& change) {
        Stranger caller(network, "caller:1");
        change(caller.hello);
        caller.connect_and_greet("p:1");
        const auto byes = caller.heard<Bye>();
        return byes.empty() ? std::string() : byes.back().reason;
    };
    EXPECT_EQ(refusal([](Hello&) {}), "");
    EXPECT_THAT(refusal([](Hello& hello) { hello.oldest_version = hello.version = 99; }),
                HasSubstr("protocol versions 99 to 99"));
    EXPECT_EQ(refusal([](Hello& hello) { hello.version = 99; }), "") << "it speaks ours too";
    EXPECT_THAT(refusal([](Hello& hello) { ++hello.plan_version; }), HasSubstr("plan version"));
    EXPECT_THAT(refusal([](Hello& hello) { hello.instance = {}; }), HasSubstr("instance"));
    const Pool pool = p->memory().pool();
    EXPECT_THAT(refusal([&](Hello& hello) { hello.pools = {pool, pool}; }), HasSubstr("twice"));
    EXPECT_THAT(refusal([&](Hello& hello) {
                    hello.pools = {pool};
                    hello.pools[0].planes[0].heads = 0;
                }),
                HasSubstr("pool \"kv\""));
}

TEST_F(SessionTest, ByeTellsTheReason) {
    Stranger caller(network, "caller:1");
    Receiving recv(d, {.senders = {"caller:1"}, .tag = "a", .tokens = 8});
    network.run_for(1ms);
    caller.say(Bye{Code::authentication_failed, "wrong key"});
    network.run_for(1s);
    EXPECT_EQ(recv.code(), Code::authentication_failed);
    EXPECT_THAT(recv.outcome()->message(), HasSubstr("wrong key"));
}

TEST_F(SessionTest, PoolsAddedLaterAreKnownToOpenSessions) {
    Receiving first(d, wish("unknown", 4));
    network.run_for(1s);
    Pool late = p->memory().pool();
    late.name = "late";
    p->exchange().sessions().add_pool(late);
    network.run_for(1s);
    ASSERT_NE(session_of(*d), nullptr);
    EXPECT_NE(session_of(*d)->pool("late"), nullptr);
    first.cancel();
}

// And they let the sends go, whose pages nobody would come for.
TEST_F(SessionTest, MismatchedPoolsFailTheRecvAlone) {
    Sending first(p, "a");
    first.grow(8);
    first.finish();
    NodeOptions other;
    other.pools = {Shape{.name = "kv", .layers = 7}};
    const auto big = Node::start(network, "big:1", other);
    Receiving missing(big, wish("a", 8));
    network.run_for(1s);
    EXPECT_EQ(missing.code(), Code::layout_mismatch);
    EXPECT_TRUE(first.outcome()->ok());
    other.pools = {Shape{.name = "else"}};
    const auto strange = Node::start(network, "strange:1", other);
    const TransferId second = strange->open_send("a", 60s);
    strange->exchange().senders().finish(second);
    Receiving nameless(d, {.senders = {"strange:1"}, .tag = "a", .tokens = 8});
    network.run_for(1s);
    EXPECT_EQ(nameless.code(), Code::layout_mismatch);
    EXPECT_THAT(nameless.outcome()->message(), HasSubstr("has no pool \"kv\""));
    EXPECT_TRUE(strange->outcome(second)->ok());
    EXPECT_EQ(big->leftovers() + strange->leftovers(), "");
}

// --- Signs of life ----------------------------------------------------------------------------

TEST_F(SessionTest, FrozenPeerIsDeclaredWithinTwoSeconds) {
    Sending send(p, "a");
    Receiving recv(d, wish("a", 8));
    network.run_for(10s);
    EXPECT_FALSE(recv.outcome()) << "a busy peer is not a dead one";
    p->freeze();
    network.run_for(2100ms);
    EXPECT_EQ(recv.code(), Code::peer_lost);
    EXPECT_THAT(recv.outcome()->message(), HasSubstr("no sign of life"));
    p->thaw();
    send.abort();
}

TEST_F(SessionTest, SenderDeclaresAFrozenReceiver) {
    Sending send(p, "a");
    Receiving recv(d, wish("a", 8));
    network.run_for(10s);
    d->freeze();
    network.run_for(2100ms);
    EXPECT_EQ(p->exchange().senders().grants(), 0U);
    d->thaw();
    network.run_for(1s);
    EXPECT_EQ(recv.code(), Code::peer_lost);
    send.abort();
}

TEST_F(SessionTest, IdleSessionsExchangeNothing) {
    Sending send(p, "a");
    send.grow(8);
    send.finish();
    Receiving recv(d, wish("a", 8));
    network.run_for(1s);
    ASSERT_TRUE(recv.ok());
    const std::size_t said = p->messages.size() + d->messages.size();
    network.run_for(1000s);
    EXPECT_EQ(p->messages.size() + d->messages.size(), said);
}

// A pause of this process says nothing about its peers, whenever it begins.
TEST_F(SessionTest, OwnPauseIsNotThePeersSilence) {
    for (const Duration begin : {0ms, 100ms, 499ms, 501ms, 1300ms}) {
        SCOPED_TRACE(to_seconds(begin));
        Sending send(p, "a");
        network.run_for(10s);
        Receiving recv(d, wish("a", 8));
        network.run_for(begin + 10us);
        d->freeze();
        p->freeze();
        network.run_for(20s);
        d->thaw();
        network.run_for(100ms);
        p->thaw();
        network.run_for(1s);
        EXPECT_FALSE(recv.outcome()) << recv.outcome()->to_string();
        send.grow(8);
        send.finish();
        network.run_for(1s);
        EXPECT_TRUE(recv.ok());
    }
}

TEST_F(SessionTest, OwnPauseDuringTheHandshakeDoesNotEndIt) {
    Sending send(p, "a");
    network.wire = {10ms, 10ms};
    Receiving recv(d, wish("a", 8));
    network.run_for(15ms);
    d->freeze();
    p->freeze();
    network.run_for(20s);
    d->thaw();
    p->thaw();
    send.grow(8);
    send.finish();
    network.run_for(1s);
    EXPECT_TRUE(recv.ok()) << recv.outcome()->to_string();
}

// --- Restarts ---------------------------------------------------------------------------------

TEST_F(SessionTest, RestartedSenderServesNewRecvsAtOnce) {
    Sending lost(p, "a");
    Receiving old(d, wish("a", 8));
    network.run_for(1s);
    p->crash();
    p = Node::start(network, "p:1");
    network.run_for(100ms);
    EXPECT_EQ(old.code(), Code::peer_lost);
    Sending send(p, "b");
    send.grow(8);
    send.finish();
    Receiving recv(d, wish("b", 8));
    network.run_for(100ms);
    EXPECT_TRUE(recv.ok());
}

// The old connection vanished without a word; the new incarnation is known by its instance.
TEST_F(SessionTest, RestartedReceiverEndsItsOldGrantsAtOnce) {
    Sending send(p, "a");
    Receiving old(d, wish("a", 8));
    network.run_for(1s);
    d->lose_connections();
    d->crash();
    d = Node::start(network, "d:1");
    Receiving fresh(d, wish("b", 8));
    network.run_for(100ms);
    EXPECT_EQ(p->exchange().senders().grants(), 0U);
    send.finish();
    network.run_for(100ms);
    EXPECT_EQ(send.outcome()->code(), Code::peer_restarted);
    fresh.cancel();
}

// --- Credit -----------------------------------------------------------------------------------

class Credit : public TwoNodes {
  protected:
    void SetUp() override {
        NodeOptions options;
        options.protocol.recv_credits = 2;
        start(options, options);
    }
    std::size_t asked() { return network.run_for(1s), d->sent("RECV"); }
};

TEST_F(Credit, ExcessRecvsWaitAtTheirOwnSide) {
    std::vector<Receiving> recvs;
    std::vector<Sending> sends;
    for (const char* tag : {"0", "1", "2", "3", "4"}) recvs.emplace_back(d, wish(tag, 8));
    EXPECT_EQ(asked(), 2U);
    for (const char* tag : {"4", "3", "2", "1", "0"}) {
        sends.emplace_back(p, tag).grow(8);
        sends.back().finish();
    }
    EXPECT_EQ(asked(), 5U);
    for (const Receiving& recv : recvs) EXPECT_TRUE(recv.ok());
}

TEST_F(Credit, ComesBackHoweverARecvEnds) {
    Sending refused(p, "refused");
    refused.abort();
    network.run_for(1s);
    for (int round = 0; round < 3; ++round) {
        Receiving unknown(d, wish("unknown", 8));
        Receiving late(d, wish("refused", 8));
        Sending matched(p, "matched");
        Receiving cancelled(d, wish("matched", 8));
        network.run_for(1s);
        EXPECT_EQ(late.code(), Code::aborted);
        cancelled.cancel();
        matched.finish();
        unknown.cancel();
        network.run_for(1s);
        EXPECT_EQ(unknown.code(), Code::aborted);
        EXPECT_EQ(d->leftovers(), "");
        EXPECT_EQ(p->leftovers(), "");
    }
}

TEST_F(Credit, RecvThatEndsBeforeItWasAskedForOnlyLetsItsSendGo) {
    Sending send(p, "2");
    send.grow(8);
    send.finish();
    std::vector<Receiving> recvs;
    for (const char* tag : {"0", "1", "2"}) recvs.emplace_back(d, wish(tag, 8));
    EXPECT_EQ(asked(), 2U);
    recvs[2].cancel();
    network.run_for(1s);
    EXPECT_EQ(recvs[2].code(), Code::aborted);
    EXPECT_EQ(d->sent("CANCEL"), 0U);
    EXPECT_FALSE(send.outcome()) << "that needs credit, too";
    recvs[0].cancel();
    recvs[1].cancel();
    network.run_for(1s);
    EXPECT_TRUE(send.outcome()->ok());
    EXPECT_TRUE(p->shipped.empty());
}

TEST_F(Credit, WaitingRecvsEndWithTheirSession) {
    std::vector<Receiving> recvs;
    for (const char* tag : {"0", "1", "2"}) recvs.emplace_back(d, wish(tag, 8));
    network.run_for(1s);
    p->crash();
    p.reset();
    network.run_for(1s);
    for (const Receiving& recv : recvs) EXPECT_EQ(recv.code(), Code::peer_lost);
}

// The time that passes while waiting for credit counts too.
TEST_F(Credit, WhatIsLeftOfTheDeadlineIsSent) {
    std::vector<Receiving> recvs;
    for (const char* tag : {"0", "1", "2"}) recvs.emplace_back(d, wish(tag, 8));
    network.run_for(10s);
    recvs[0].cancel();
    network.run_for(1s);
    const auto& last = d->messages;
    const auto asked_last = std::find_if(last.rbegin(), last.rend(), [](const Message& message) {
        return std::holds_alternative<Recv>(message);
    });
    EXPECT_LE(std::get<Recv>(*asked_last).remaining_ms, 20000U);
    recvs[1].cancel();
    recvs[2].cancel();
}

}  // namespace
}  // namespace mc::simulation
