// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>
#include <sys/socket.h>

#include <array>
#include <atomic>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "engine/control_channel.hpp"
#include "transport/support/near_side.hpp"

namespace mc {
namespace {

using testing::Events;
using testing::in_loop;

using Pair = std::array<FileDescriptor, 2>;

Pair stream_pair() {
    int sockets[2] = {-1, -1};
    if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, sockets) != 0)
        std::abort();
    return {FileDescriptor(sockets[0]), FileDescriptor(sockets[1])};
}

// One channel and what it has heard: "5" for PING 5, "BYE reason", or how it failed.
class End {
  public:
    End(EventLoop& loop, FileDescriptor socket) : loop_(loop) {
        in_loop(loop_, [&] {
            channel_ = std::make_shared<ControlChannel>(
                loop_, std::move(socket),
                ControlChannel::Handlers{[this](const Message& message) { heard(message); },
                                         [this](const Status& reason) { failed(reason); },
                                         [this] { return greeted.load(); }});
            ASSERT_TRUE(channel_->start());
        });
    }
    ~End() {
        in_loop(loop_, [&] { channel_.reset(); });
    }

    void ping(std::uint64_t value) {
        loop_.post([this, value] { channel_->send(Ping{value}); });
    }
    void move_to(FileDescriptor socket) {
        in_loop(loop_, [&] { ASSERT_TRUE(channel_->move_to(std::move(socket))); });
    }
    void close() {
        in_loop(loop_, [&] { channel_->close(); });
    }
    // Waits until so much was heard.
    std::vector<std::string> log(std::size_t lines) {
        EXPECT_TRUE(events_.wait([&] { return log_.size() >= lines; }));
        std::vector<std::string> copy;
        in_loop(loop_, [&] { copy = log_; });
        return copy;
    }

    bool says_bye = false;  // when it fails
    std::atomic<bool> greeted = true;

  private:
    void heard(const Message& message) {
        const auto* ping = std::get_if<Ping>(&message);
        const auto* bye = std::get_if<Bye>(&message);
        note(ping != nullptr  ? std::to_string(ping->value)
             : bye != nullptr ? "BYE " + bye->reason
                              : std::string(name_of(message)));
    }
    void failed(const Status& reason) {
        if (says_bye) channel_->send(Bye{reason.code(), reason.message()});
        note(std::string(to_string(reason.code())));
    }
    void note(std::string line) {
        events_.note([&] { log_.push_back(std::move(line)); });
    }

    EventLoop& loop_;
    Events events_;
    std::vector<std::string> log_;
    std::shared_ptr<ControlChannel> channel_;
};

using Heard = std::vector<std::string>;

class ControlChannelTest : public ::testing::Test {
  protected:
    void SetUp() override { ASSERT_TRUE(loop_.start("control test")); }

    EventLoop loop_;
};

TEST_F(ControlChannelTest, CarriesMessagesInOrder) {
    Pair sockets = stream_pair();
    End left(loop_, std::move(sockets[0]));
    End right(loop_, std::move(sockets[1]));
    Heard expected;
    for (std::uint64_t i = 0; i < 20'000; ++i) {
        left.ping(i);
        expected.push_back(std::to_string(i));
    }
    EXPECT_EQ(right.log(expected.size()), expected);
}

TEST_F(ControlChannelTest, PutsSplitFramesTogether) {
    Pair sockets = stream_pair();
    End end(loop_, std::move(sockets[0]));
    Bytes bytes;
    encode(Ping{7}, bytes);
    encode(Ping{8}, bytes);
    for (const std::uint8_t byte : bytes) {
        ASSERT_EQ(::send(sockets[1].get(), &byte, 1, 0), 1);
        in_loop(loop_, [] {});
    }
    EXPECT_EQ(end.log(2), (Heard{"7", "8"}));
}

TEST_F(ControlChannelTest, TellsOfThePeersEnd) {
    Pair sockets = stream_pair();
    End left(loop_, std::move(sockets[0]));
    End right(loop_, std::move(sockets[1]));
    left.ping(1);
    left.close();
    EXPECT_EQ(right.log(2), (Heard{"1", "peer lost"}));
}

TEST_F(ControlChannelTest, SaysWhyItRefusesBytesThatAreNoMessage) {
    Pair sockets = stream_pair();
    End left(loop_, std::move(sockets[0]));
    left.says_bye = true;
    const std::string http = "GET / HTTP/1.1\r\n\r\n";
    ASSERT_GT(::send(sockets[1].get(), http.data(), http.size(), 0), 0);
    EXPECT_EQ(left.log(1), (Heard{"protocol error"}));
    End right(loop_, std::move(sockets[1]));
    const Heard log = right.log(2);
    ASSERT_EQ(log.size(), 2U);
    EXPECT_EQ(log[0].substr(0, 4), "BYE ");
    EXPECT_EQ(log[1], "peer lost");
}

// Nothing of a frame has to come but its length.
TEST_F(ControlChannelTest, RefusesLongFramesOfPeersThatHaveNotGreeted) {
    for (const bool greeted : {true, false}) {
        Pair sockets = stream_pair();
        End end(loop_, std::move(sockets[0]));
        end.greeted = greeted;
        const auto announce = [&](std::uint32_t length) {
            Bytes bytes;
            ByteWriter(bytes).put(length);
            ASSERT_EQ(::send(sockets[1].get(), bytes.data(), bytes.size(), 0), bytes.size());
        };
        announce(kMaxGreetingBytes + 1);
        if (greeted) sockets[1].reset();  // all that can happen to it
        EXPECT_EQ(end.log(1).at(0), greeted ? "peer lost" : "protocol error");
    }
}

TEST_F(ControlChannelTest, MovesToAnotherConnectionBetweenMessages) {
    for (int round = 0; round < 50; ++round) {
        Pair first = stream_pair();
        Pair second = stream_pair();
        End left(loop_, std::move(first[0]));
        End right(loop_, std::move(first[1]));
        Heard expected;
        const auto pings = [&](End& end, std::uint64_t from) {
            for (std::uint64_t i = from; i < from + 10; ++i) end.ping(i);
        };
        for (std::uint64_t i = 0; i < 20; ++i) expected.push_back(std::to_string(i));
        pings(left, 0);
        pings(right, 0);
        left.move_to(std::move(second[0]));
        pings(left, 10);
        if (round % 2 == 0) in_loop(loop_, [] {});
        right.move_to(std::move(second[1]));
        pings(right, 10);
        EXPECT_EQ(right.log(20), expected);
        EXPECT_EQ(left.log(20), expected);
    }
}

TEST_F(ControlChannelTest, HearsThePeersLastWordsAfterTheMove) {
    for (int round = 0; round < 50; ++round) {
        Pair first = stream_pair();
        Pair second = stream_pair();
        End left(loop_, std::move(first[0]));
        End right(loop_, std::move(first[1]));
        right.move_to(std::move(second[1]));
        if (round % 2 == 0) in_loop(loop_, [] {});  // else all comes at once
        left.move_to(std::move(second[0]));
        left.ping(1);
        left.close();
        EXPECT_EQ(right.log(2), (Heard{"1", "peer lost"})) << "round " << round;
    }
}

TEST_F(ControlChannelTest, RefusesBytesOnTheConnectionThatWasLeft) {
    Pair first = stream_pair();
    Pair second = stream_pair();
    End end(loop_, std::move(first[0]));
    end.move_to(std::move(second[0]));
    const std::array<std::uint8_t, 4> moved{};
    ASSERT_EQ(::send(first[1].get(), moved.data(), moved.size(), 0), 4);
    Bytes ping;
    encode(Ping{1}, ping);
    ASSERT_GT(::send(second[1].get(), ping.data(), ping.size(), 0), 0);
    EXPECT_EQ(end.log(1), (Heard{"1"}));
    ASSERT_GT(::send(first[1].get(), ping.data(), ping.size(), 0), 0);
    EXPECT_EQ(end.log(2), (Heard{"1", "protocol error"}));
}

TEST_F(ControlChannelTest, WaitsForASlowReader) {
    Pair sockets = stream_pair();
    End left(loop_, std::move(sockets[0]));
    constexpr int kCount = 5000;
    for (int i = 0; i < kCount; ++i) left.ping(static_cast<std::uint64_t>(i));
    in_loop(loop_, [] {});  // far more than the socket holds is waiting now
    End right(loop_, std::move(sockets[1]));
    EXPECT_EQ(right.log(kCount).back(), std::to_string(kCount - 1));
}

}  // namespace
}  // namespace mc
