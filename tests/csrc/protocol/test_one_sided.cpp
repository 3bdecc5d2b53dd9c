// SPDX-License-Identifier: Apache-2.0
// One-sided reads and writes, of memory that the peer registered for it.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <numeric>

#include "protocol/scenario.hpp"

namespace mc::simulation {
namespace {

using testing::HasSubstr;

class OneSided : public EachWay {
  protected:
    void SetUp() override {
        EachWay::SetUp();
        std::iota(p->readable.begin(), p->readable.end(), std::uint8_t{1});
        std::iota(own.begin(), own.end(), std::uint8_t{3});
    }
    static Segment part(std::vector<std::uint8_t>& memory, std::size_t at, std::size_t length) {
        return {reinterpret_cast<std::uint64_t>(memory.data()) + at, length};
    }
    std::optional<Status> run(TransferId id) {
        network.run_for(1s);
        return d->outcome(id);
    }

    std::vector<std::uint8_t> own = std::vector<std::uint8_t>(4096);
};
MC_FOR_EACH_WAY(OneSided);

TEST_P(OneSided, Read) {
    const auto id = d->read("p:1", {part(p->readable, 100, 50), part(p->readable, 7, 30)},
                            {part(own, 0, 10), part(own, 200, 70)}, 10s);
    EXPECT_TRUE(run(id)->ok());
    EXPECT_TRUE(std::equal(own.begin(), own.begin() + 10, p->readable.begin() + 100));
    EXPECT_TRUE(std::equal(own.begin() + 200, own.begin() + 240, p->readable.begin() + 110));
    EXPECT_TRUE(std::equal(own.begin() + 240, own.begin() + 270, p->readable.begin() + 7));
}

TEST_P(OneSided, Write) {
    const auto id = d->write("p:1", {part(own, 100, 50)},
                             {part(p->writable, 0, 20), part(p->writable, 1000, 30)}, 10s);
    EXPECT_TRUE(run(id)->ok());
    EXPECT_TRUE(std::equal(own.begin() + 100, own.begin() + 120, p->writable.begin()));
    EXPECT_TRUE(std::equal(own.begin() + 120, own.begin() + 150, p->writable.begin() + 1000));
}

// A CANCEL that is never answered keeps a credit until the writer is declared lost.
TEST_P(OneSided, WriterVanishesBeforeItIsCancelled) {
    network.work = {700ms, 700ms};
    const auto id = d->write("p:1", {part(own, 0, 50)}, {part(p->writable, 0, 50)}, 1s);
    network.run_for(900ms);
    EXPECT_EQ(p->sent("WRITE_GRANT"), 1U);
    d->lose_connections();
    network.run_for(200ms);
    EXPECT_EQ(p->sent("CANCEL"), 1U);
    network.run_for(5s);
    EXPECT_FALSE(d->outcome(id)->ok());
    EXPECT_TRUE(p->exchange().sessions().all().empty());
}

TEST_P(OneSided, ReadOfWhatIsNotRegisteredIsRefused) {
    const auto id = d->read("p:1", {part(p->writable, 0, 10)}, {part(own, 0, 10)}, 10s);
    EXPECT_EQ(run(id)->code(), Code::invalid_argument);
    const auto beyond = d->read("p:1", {part(p->readable, 4090, 10)}, {part(own, 0, 10)}, 10s);
    EXPECT_EQ(run(beyond)->code(), Code::invalid_argument);
    EXPECT_TRUE(p->shipped.empty());
}

TEST_P(OneSided, WriteToWhatIsNotRegisteredIsRefused) {
    const auto id = d->write("p:1", {part(own, 0, 10)}, {part(p->readable, 0, 10)}, 10s);
    EXPECT_EQ(run(id)->code(), Code::invalid_argument);
    EXPECT_THAT(d->outcome(id)->message(), HasSubstr("the peer refused the write"));
    EXPECT_TRUE(d->shipped.empty());
}

TEST_P(OneSided, NobodyListens) {
    const auto read = d->read("nobody:1", {part(own, 0, 10)}, {part(own, 0, 10)}, 10s);
    const auto write = d->write("nobody:1", {part(own, 0, 10)}, {part(own, 0, 10)}, 10s);
    EXPECT_EQ(run(read)->code(), Code::unreachable);
    EXPECT_EQ(run(write)->code(), Code::unreachable);
}

TEST_P(OneSided, CancelAtAnyMoment) {
    network.wire = network.work = {1ms, 1ms};
    for (Duration moment = 0ms; moment < 20ms; moment += 500us) {
        const auto read = d->read("p:1", {part(p->readable, 0, 10)}, {part(own, 0, 10)}, 10s);
        const auto write = d->write("p:1", {part(own, 0, 10)}, {part(p->writable, 0, 10)}, 10s);
        network.run_for(moment);
        d->exchange().receivers().cancel(read, Status(Code::aborted, "cancelled"));
        d->exchange().senders().abort(write, Status(Code::aborted, "cancelled"));
        network.run_for(1s);
        ASSERT_TRUE(d->outcome(read) && d->outcome(write));
        EXPECT_EQ(d->leftovers() + p->leftovers(), "");
    }
}

TEST_P(OneSided, DeadlinesEndBothSides) {
    const auto warm_up = d->read("p:1", {part(p->readable, 0, 1)}, {part(own, 0, 1)}, 1s);
    EXPECT_TRUE(run(warm_up)->ok());
    network.work = {900ms, 900ms};  // for reading, writing and closing
    const auto read = d->read("p:1", {part(p->readable, 0, 10)}, {part(own, 0, 10)}, 500ms);
    const auto write = d->write("p:1", {part(own, 0, 10)}, {part(p->writable, 0, 10)}, 500ms);
    network.run_for(5s);
    EXPECT_EQ(d->outcome(read)->code(), Code::timeout);
    EXPECT_EQ(d->outcome(write)->code(), Code::timeout);
}

TEST_P(OneSided, PeerDiesMeanwhile) {
    network.wire = {10ms, 10ms};
    const auto read = d->read("p:1", {part(p->readable, 0, 10)}, {part(own, 0, 10)}, 10s);
    const auto write = d->write("p:1", {part(own, 0, 10)}, {part(p->writable, 0, 10)}, 10s);
    network.run_for(25ms);
    p->crash();
    p.reset();
    EXPECT_EQ(run(read)->code(), Code::peer_lost);
    EXPECT_EQ(run(write)->code(), Code::peer_lost);
}

class OneSidedCredit : public TwoNodes {
  protected:
    void SetUp() override {
        NodeOptions options;
        options.protocol.recv_credits = 2;
        start(options, options);
    }
};

TEST_F(OneSidedCredit, ExcessRequestsWaitAtTheirOwnSide) {
    network.work = {1ms, 20ms};
    std::vector<std::uint8_t> own(64);
    std::vector<TransferId> ids;
    const auto at = [](std::vector<std::uint8_t>& memory, std::size_t offset) {
        return std::vector<Segment>{{reinterpret_cast<std::uint64_t>(memory.data()) + offset, 4}};
    };
    for (std::size_t i = 0; i < 10; ++i) {
        ids.push_back(d->write("p:1", at(own, i), at(p->writable, i), 10s));
        ids.push_back(d->read("p:1", at(p->readable, i), at(own, i), 10s));
    }
    d->exchange().senders().abort(ids[8], Status(Code::aborted, "while it waits"));
    network.run_for(4ms);
    d->exchange().senders().abort(ids[0], Status(Code::aborted, "while it is answered"));
    network.run_for(5s);
    for (const TransferId id : ids) {
        ASSERT_TRUE(d->outcome(id));
        EXPECT_EQ(d->outcome(id)->ok(), id != ids[0] && id != ids[8])
            << d->outcome(id)->to_string();
    }
}

TEST_F(OneSidedCredit, WaitingWritesEndWithTheirSession) {
    std::vector<std::uint8_t> own(64);
    const std::vector<Segment> source{{reinterpret_cast<std::uint64_t>(own.data()), 4}};
    std::vector<TransferId> ids;
    network.wire = {1ms, 1ms};
    for (std::size_t i = 0; i < 5; ++i) {
        ids.push_back(d->write("p:1", source,
                               {{reinterpret_cast<std::uint64_t>(p->writable.data()), 4}}, 10s));
    }
    network.run_for(5ms);
    p->crash();
    p.reset();
    network.run_for(1s);
    for (const TransferId id : ids) EXPECT_EQ(d->outcome(id)->code(), Code::peer_lost);
}

}  // namespace
}  // namespace mc::simulation
