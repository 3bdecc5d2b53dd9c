// SPDX-License-Identifier: Apache-2.0
// Sessions between engines with keys. What a stranger cannot do without the key, it tries here.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "protocol/scenario.hpp"
#include "protocol/stranger.hpp"

namespace mc::simulation {
namespace {

using testing::HasSubstr;
using testing::IsEmpty;
using testing::SizeIs;

Token key_id(std::uint8_t number) {
    Token id;
    id.bytes.fill(number);
    return id;
}

// A node with these keys; the secret of key n is 1000 + n.
NodeOptions with_keys(std::initializer_list<std::uint8_t> numbers) {
    NodeOptions options;
    options.way = Way::inline_data;
    for (const std::uint8_t number : numbers) {
        options.protocol.keys.push_back(key_id(number));
        options.secrets[key_id(number)] = 1000U + number;
    }
    return options;
}

class HandshakeTest : public TwoNodes {
  protected:
    void SetUp() override { restart(with_keys({1}), with_keys({1})); }
    void restart(const NodeOptions& sender, const NodeOptions& receiver) {
        p.reset();
        d.reset();
        start(sender, receiver);
    }

    // Whether a transfer from p to d goes well.
    std::optional<Status> transfer(const std::string& sender = "p:1") {
        Sending send(p, "tag");
        send.grow(8);
        send.finish();
        Wish from = wish("tag", 8);
        from.senders = {sender};
        from.deadline = 8s;
        Receiving received(d, from);
        network.run_for(6s);
        const auto outcome = received.outcome();
        if (outcome && !outcome->ok()) send.abort();
        network.run_for(1s);
        return outcome;
    }
    void expect_refused(const std::optional<Status>& outcome, const std::string& why) {
        ASSERT_TRUE(outcome);
        EXPECT_EQ(outcome->code(), Code::authentication_failed);
        EXPECT_THAT(outcome->message(), HasSubstr(why));
    }
    // Nothing but CHALLENGE, PROOF and BYE has been said to it.
    static void expect_nothing_told(const Stranger& stranger) {
        EXPECT_THAT(stranger.heard<Hello>(), IsEmpty());
        EXPECT_THAT(stranger.heard<Recv>(), IsEmpty());
    }
};

TEST_F(HandshakeTest, EnginesWithTheSameKeyTrustEachOther) { EXPECT_TRUE(transfer()->ok()); }

TEST_F(HandshakeTest, AnyCommonKeyWill) {
    restart(with_keys({1, 2}), with_keys({3, 2}));
    EXPECT_TRUE(transfer()->ok());
    restart(with_keys({2}), with_keys({2, 1}));
    EXPECT_TRUE(transfer()->ok());
}

TEST_F(HandshakeTest, DifferentKeysAreRefused) {
    restart(with_keys({1}), with_keys({2}));
    expect_refused(transfer(), "different keys");
}

TEST_F(HandshakeTest, OneSideWithoutAKeyIsRefused) {
    restart(with_keys({1}), {});
    expect_refused(transfer(), "only one of the two engines has a key");
    restart({}, with_keys({1}));
    expect_refused(transfer(), "only one of the two engines has a key");
}

TEST_F(HandshakeTest, AKeysIdIsNotTheKey) {
    NodeOptions pretender = with_keys({1});
    pretender.secrets[key_id(1)] = 7;
    restart(with_keys({1}), pretender);
    EXPECT_EQ(transfer()->code(), Code::authentication_failed);
    restart(pretender, with_keys({1}));
    EXPECT_EQ(transfer()->code(), Code::authentication_failed);
}

TEST_F(HandshakeTest, PoolsThatAreAddedMeanwhileAreTold) {
    network.work = {50ms, 50ms};  // that long a proof takes
    Sending send(p, "tag");
    send.grow(8);
    send.finish();
    Receiving received(d, wish("tag", 8));
    for (int i = 0; i < 12; ++i) {
        Pool pool = p->memory().pool();
        pool.name = "later " + std::to_string(i);
        p->exchange().sessions().add_pool(pool);
        d->exchange().sessions().add_pool(pool);
        network.run_for(20ms);
    }
    network.run_for(1s);
    EXPECT_TRUE(received.ok());
    for (const auto& node : {p, d}) {
        ASSERT_THAT(node->exchange().sessions().all(), SizeIs(1));
        const Session& session = node->exchange().sessions().all().begin()->second;
        EXPECT_THAT(session.peer.pools, SizeIs(13));
    }
}

TEST_F(HandshakeTest, WithoutAnAnswerOfTheAuthenticationItTimesOut) {
    network.work = {1h, 1h};
    Receiving received(d, wish("tag", 8));
    network.run_for(6s);
    EXPECT_EQ(received.code(), Code::unreachable);
    EXPECT_THAT(p->exchange().sessions().all(), IsEmpty());
}

class WithoutTheKey : public HandshakeTest {
  protected:
    Stranger mallory{network, "mallory:1"};
};

TEST_F(WithoutTheKey, NothingIsToldAndNothingBelieved) {
    mallory.connect("p:1");
    mallory.say(Challenge{Token::random(), {key_id(1)}});
    network.run_for(1s);
    ASSERT_THAT(mallory.heard<Proof>(), SizeIs(1));
    mallory.say(mallory.hello);
    mallory.say(Proof{});
    network.run_for(1s);
    EXPECT_EQ(mallory.heard<Bye>().at(0).code, Code::authentication_failed);
    EXPECT_TRUE(mallory.cut_off());
    expect_nothing_told(mallory);
}

TEST_F(WithoutTheKey, APeerThatIsConnectedToLearnsNothing) {
    Receiving received(
        d, {.senders = {"mallory:1"}, .tag = "tag", .tokens = 8, .deadline = Duration(3s)});
    network.run_for(10ms);
    const Challenge challenge = mallory.heard<Challenge>().at(0);
    mallory.say(Challenge{Token::random(), challenge.keys});
    mallory.say(Proof{});
    network.run_for(1s);
    EXPECT_EQ(received.code(), Code::authentication_failed);
    expect_nothing_told(mallory);
}

TEST_F(WithoutTheKey, WhatComesTooEarlyIsRefused) {
    const std::vector<Message> early{Ping{1}, Cancelled{GrantId{1}}, Proof{}, Cancel{GrantId{1}}};
    for (const Message& message : early) {
        Stranger eve(network, "eve:1");
        eve.connect("p:1");
        eve.say(message);
        EXPECT_TRUE(eve.refused_for_protocol()) << name_of(message);
        expect_nothing_told(eve);
    }
}

TEST_F(WithoutTheKey, AHelloDoesNotReplaceTheHandshake) {
    mallory.connect_and_greet("p:1");
    EXPECT_EQ(mallory.heard<Bye>().at(0).code, Code::authentication_failed);
    expect_nothing_told(mallory);
}

TEST_F(WithoutTheKey, AChallengeCannotBeReflected) {
    Receiving received(
        d, {.senders = {"mallory:1"}, .tag = "tag", .tokens = 8, .deadline = Duration(3s)});
    network.run_for(10ms);
    const Challenge challenge = mallory.heard<Challenge>().at(0);
    mallory.say(challenge);  // its own words
    network.run_for(1s);
    expect_nothing_told(mallory);
    // Another connection would make the proof that the first one needs, but as the other role.
    Stranger second(network, "second:1");
    second.connect("d:1");
    second.say(challenge);
    network.run_for(1s);
    ASSERT_THAT(second.heard<Proof>(), SizeIs(1));
    mallory.say(second.heard<Proof>().at(0));
    network.run_for(3s);
    EXPECT_EQ(received.code(), Code::authentication_failed);
    expect_nothing_told(mallory);
}

TEST_F(WithoutTheKey, AnAcceptorsProofIsNoConnectorsProof) {
    mallory.connect("p:1");
    mallory.say(Challenge{Token::random(), {key_id(1)}});
    network.run_for(1s);
    mallory.say(mallory.hello);
    mallory.say(mallory.heard<Proof>().at(0));
    network.run_for(1s);
    EXPECT_EQ(mallory.heard<Bye>().at(0).code, Code::authentication_failed);
}

TEST_F(WithoutTheKey, AFloodDuringTheHandshakeEndsIt) {
    network.work = {1s, 1s};
    mallory.connect("p:1");
    mallory.say(Challenge{Token::random(), {key_id(1)}});
    for (int i = 0; i < 100; ++i) mallory.say(Ping{1});
    EXPECT_TRUE(mallory.refused_for_protocol());
}

TEST_F(WithoutTheKey, ItsFramesAreShort) {
    mallory.connect("p:1");
    ASSERT_TRUE(transfer()->ok());
    for (const auto& [id, session] : p->exchange().sessions().all()) {
        const bool friendly = session.state == Session::State::ready;
        EXPECT_EQ(p->exchange().greeted(id), friendly);
    }
    EXPECT_FALSE(p->exchange().greeted(SessionId{99}));
}

TEST_F(WithoutTheKey, ManyBytesDuringTheHandshakeEndIt) {
    network.work = {1s, 1s};
    mallory.connect("p:1");
    mallory.say(Challenge{Token::random(), {key_id(1)}});
    mallory.say(Data{GrantId{1}, 0, 0, {}, 0, Bytes(600U << 10)});
    EXPECT_FALSE(mallory.cut_off());
    mallory.say(Data{GrantId{1}, 0, 0, {}, 0, Bytes(600U << 10)});
    EXPECT_TRUE(mallory.refused_for_protocol());
}

TEST_F(WithoutTheKey, ConnectionsThatSayNothingKeepNobodyOut) {
    std::vector<std::unique_ptr<Stranger>> silent;
    for (int i = 0; i < 1100; ++i) {
        silent.push_back(std::make_unique<Stranger>(network, "silent:" + std::to_string(i)));
        silent.back()->connect("p:1");
    }
    EXPECT_LE(p->exchange().sessions().all().size(), 1024U);
    EXPECT_TRUE(silent.front()->cut_off());
    EXPECT_TRUE(transfer()->ok());
    network.run_for(10s);
    EXPECT_THAT(p->exchange().sessions().all(), SizeIs(1));  // d's
}

// Between d and p, hearing and altering everything.
class InTheMiddle : public HandshakeTest {
  protected:
    using Alter = std::function<Message(const Message&)>;

    // d wants a transfer from what it takes for p. What mallory says depends on what she hears.
    std::optional<Status> transfer_through(const Alter& from_d, const Alter& from_p) {
        front = std::make_unique<Stranger>(network, "front:1");
        back = std::make_unique<Stranger>(network, "back:1");
        Sending send(p, "tag");
        send.grow(8);
        send.finish();
        Receiving received(
            d, {.senders = {"front:1"}, .tag = "tag", .tokens = 8, .deadline = Duration(4s)});
        network.run_for(10ms);
        back->connect("p:1");
        std::size_t down = 0;
        std::size_t up = 0;
        for (int step = 0; step < 200; ++step) {
            while (up < front->heard().size()) back->say(from_d(front->heard()[up++]));
            while (down < back->heard().size()) front->say(from_p(back->heard()[down++]));
            if (front->cut_off() || back->cut_off()) break;
            network.run_for(10ms);
        }
        if (back->cut_off() && front->connected()) front->hang_up();
        if (front->cut_off() && back->connected()) back->hang_up();
        network.run_for(6s);
        const auto outcome = received.outcome();
        send.abort();
        network.run_for(1s);
        return outcome;
    }
    static Message same(const Message& message) { return message; }

    std::unique_ptr<Stranger> front, back;
};

TEST_F(InTheMiddle, ThatOnlyListensIsNotNoticed) {
    EXPECT_TRUE(transfer_through(same, same)->ok());
}

TEST_F(InTheMiddle, SwappedPoolsAreNoticed) {
    const auto swap = [](const Message& message) -> Message {
        Message altered = message;
        if (auto* hello = std::get_if<Hello>(&altered))
            for (Plane& plane : hello->pools.at(0).planes) plane.base += 64;
        return altered;
    };
    EXPECT_FALSE(transfer_through(same, swap)->ok());
    EXPECT_THAT(d->messages,
                testing::Not(testing::Contains(testing::VariantWith<Recv>(testing::_))));
    SetUp();
    EXPECT_FALSE(transfer_through(swap, same)->ok());
}

TEST_F(InTheMiddle, AnOlderVersionCannotBeForced) {
    const auto downgrade = [](const Message& message) -> Message {
        Message altered = message;
        if (auto* hello = std::get_if<Hello>(&altered)) hello->oldest_version = 0;
        return altered;
    };
    EXPECT_FALSE(transfer_through(same, downgrade)->ok());
    SetUp();
    EXPECT_FALSE(transfer_through(downgrade, same)->ok());
}

TEST_F(InTheMiddle, AnotherKeyCannotBeForced) {
    restart(with_keys({1, 2}), with_keys({1, 2}));
    const auto second_only = [](const Message& message) -> Message {
        Message altered = message;
        if (auto* challenge = std::get_if<Challenge>(&altered)) challenge->keys = {key_id(2)};
        return altered;
    };
    EXPECT_FALSE(transfer_through(second_only, same)->ok());
}

TEST_F(InTheMiddle, WhatWasHeardOnceCannotBeReplayed) {
    ASSERT_TRUE(transfer_through(same, same)->ok());
    const auto words = front->heard();
    Stranger replayer(network, "replayer:1");
    replayer.connect("p:1");
    for (const Message& message : words) {
        replayer.say(message);
        network.run_for(50ms);
    }
    EXPECT_TRUE(replayer.cut_off());
    EXPECT_THAT(replayer.heard<Hello>(), IsEmpty());
}

}  // namespace
}  // namespace mc::simulation
