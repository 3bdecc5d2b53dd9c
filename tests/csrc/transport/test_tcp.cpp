// SPDX-License-Identifier: Apache-2.0
#include <fcntl.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

#include <random>

#include "transport/batch.hpp"
#include "transport/support/links.hpp"
#include "transport/support/near_side.hpp"
#include "transport/tcp/socket.hpp"
#include "transport/tcp/tcp_lane.hpp"

namespace mc::testing {
namespace {

TEST(BatchHeader, SurvivesTheWire) {
    const BatchHeader header{BatchHeader::Kind::batch,
                             0x1234,
                             GrantId{0x1122334455667788},
                             0xaabbccdd,
                             0x01020304,
                             0x05060708,
                             0x00090a0b,
                             0x1112131415161718};
    BatchHeader::Wire wire;
    encode(header, wire.data());
    const auto decoded = decode_batch_header(wire);
    ASSERT_TRUE(decoded);
    EXPECT_EQ(*decoded, header);
}

TEST(BatchHeader, TheWireFormatIsFixed) {
    BatchHeader::Wire wire;
    encode({BatchHeader::Kind::end, 2, GrantId{3}, 4, 5, 6, 0, 8}, wire.data());
    const BatchHeader::Wire expected{1, 0x6d, 0x63, 0x62, 2, 0, 2, 0, 3, 0, 0, 0, 0, 0,
                                     0, 0,    4,    0,    0, 0, 5, 0, 0, 0, 6, 0, 0, 0,
                                     0, 0,    0,    0,    8, 0, 0, 0, 0, 0, 0, 0};
    EXPECT_EQ(wire, expected);
}

TEST(BatchHeader, RefusesWhatCannotBe) {
    const BatchHeader good{BatchHeader::Kind::batch, 0, GrantId{1}, 0, 0, 0, 10, 0};
    const auto refused = [](BatchHeader header, std::size_t at = 0, std::uint8_t value = 1) {
        BatchHeader::Wire wire;
        encode(header, wire.data());
        if (at > 0) wire[at - 1] = value;
        return !decode_batch_header(wire).ok();
    };
    EXPECT_FALSE(refused(good));
    EXPECT_TRUE(refused(good, 1, 0xff)) << "magic";
    EXPECT_TRUE(refused(good, 5, 3)) << "kind";
    EXPECT_TRUE(refused(good, 5, 0)) << "kind";
    BatchHeader bad = good;
    bad.length = 0;
    EXPECT_TRUE(refused(bad));
    bad.length = kMaxBatchBytes + 1;
    EXPECT_TRUE(refused(bad));
    bad = good;
    bad.offset = UINT64_MAX - 9;
    EXPECT_TRUE(refused(bad));
    bad = good;
    bad.first_token = UINT32_MAX;
    bad.tokens = 1;
    EXPECT_TRUE(refused(bad));
    bad = good;
    bad.kind = BatchHeader::Kind::end;
    EXPECT_TRUE(refused(bad)) << "an end with a payload";
}

// A lane whose peer sends what it likes.
class HostileStream : public ::testing::Test {
  protected:
    void SetUp() override {
        auto [mine, theirs] = tcp_pair();
        peer_ = std::move(theirs);
        ::fcntl(peer_.get(), F_SETFL, 0);
        ASSERT_TRUE(loop_.start("hostile stream"));
        sink_ = sinks_.add(GrantId{1}, {&pages_});
        in_loop(loop_, [&] {
            lane_ = std::make_unique<TcpLane>(
                loop_, std::move(mine), sinks_,
                [this](Status reason) { events_.note([&] { failure_ = std::move(reason); }); },
                log_);
        });
    }
    void TearDown() override {
        in_loop(loop_, [this] { lane_.reset(); });
        loop_.stop();
    }
    void send(const void* bytes, std::size_t length) {
        ASSERT_EQ(::send(peer_.get(), bytes, length, MSG_NOSIGNAL), static_cast<ssize_t>(length));
    }
    void send(const BatchHeader& header) {
        BatchHeader::Wire wire;
        encode(header, wire.data());
        send(wire.data(), wire.size());
    }
    void expect_failure(Code code) {
        ASSERT_TRUE(events_.wait([this] { return !failure_.ok(); }));
        EXPECT_EQ(failure_.code(), code) << failure_.to_string();
    }

    BatchHeader header_{BatchHeader::Kind::batch, 0, GrantId{1}, 0, 0, 0, 1000, 0};
    Pages pages_{{10, 1000}, 1};
    Events events_;
    TestSinks sinks_{events_};
    std::shared_ptr<TestSink> sink_;
    Log log_{LogLevel::error};
    EventLoop loop_;
    FileDescriptor peer_;
    std::unique_ptr<TcpLane> lane_;
    Status failure_;
};

TEST_F(HostileStream, NoiseEndsTheLaneWithAReason) {
    std::vector<std::uint8_t> noise(10'000);
    std::mt19937 random(3);
    for (std::uint8_t& byte : noise) byte = static_cast<std::uint8_t>(random());
    send(noise.data(), noise.size());
    expect_failure(Code::protocol);
    EXPECT_TRUE(pages_.untouched());
}

TEST_F(HostileStream, BytesOneByOneArriveAllTheSame) {
    BatchHeader::Wire wire;
    encode(header_, wire.data());
    for (const std::uint8_t byte : wire) send(&byte, 1);
    const std::vector<std::uint8_t> payload(1000, 0x11);
    for (const std::uint8_t byte : payload) send(&byte, 1);
    ASSERT_TRUE(events_.wait([this] { return sink_->bytes == 1000; }));
    EXPECT_TRUE(pages_.untouched_but(0, 1000));
    EXPECT_TRUE(failure_.ok());
}

TEST_F(HostileStream, ABatchCutShortIsNotPlaced) {
    send(header_);
    const std::vector<std::uint8_t> payload(999, 0x11);
    send(payload.data(), payload.size());
    peer_.reset();
    expect_failure(Code::peer_lost);
    EXPECT_TRUE(sink_->pieces.empty());
}

TEST_F(HostileStream, OffsetsBeyondThePagesAreDropped) {
    const std::vector<std::uint8_t> payload(1000, 0x11);
    for (const std::uint64_t offset :
         {std::uint64_t{9001}, UINT64_MAX - 1000, std::uint64_t{9000}}) {
        header_.offset = offset;
        send(header_);
        send(payload.data(), payload.size());
    }
    ASSERT_TRUE(events_.wait([this] { return sink_->bytes == 1000; }));
    EXPECT_TRUE(pages_.untouched_but(9000, 1000));
    EXPECT_EQ(sink_->pieces.size(), 1U);
}

TEST_F(HostileStream, ARevokedBatchIsDroppedInTheMiddle) {
    header_.length = 10'000;
    send(header_);
    const std::vector<std::uint8_t> payload(5000, 0x11);
    send(payload.data(), payload.size());
    for (bool begun = false; !begun;) in_loop(loop_, [&] { begun = !pages_.untouched(); });
    std::promise<void> idle;
    sink_->hold().close([&] { idle.set_value(); });
    idle.get_future().wait();
    pages_.clear();
    send(payload.data(), payload.size());
    send({BatchHeader::Kind::end, 0, GrantId{1}, 0, 0, 0, 0, 10'000});
    ASSERT_TRUE(events_.wait([this] { return sinks_.ends.size() == 1; }));
    EXPECT_TRUE(pages_.untouched());
    EXPECT_TRUE(sink_->pieces.empty());
}

TEST(HostPort, ParsesWhatItPrints) {
    for (const char* text : {"127.0.0.1:80", "[::1]:65535", "host.example:0"}) {
        const auto parsed = parse_host_port(text);
        ASSERT_TRUE(parsed) << text;
        EXPECT_EQ(parsed->text(), text);
    }
    EXPECT_EQ(parse_host_port("[::1]:7")->host, "::1");
}

TEST(HostPort, RefusesEverythingElse) {
    for (const char* text : {"", "host", ":1", "host:", "host:x", "host:65536", "host:-1",
                             "host:1 ", "::1:80", "[]:1", "host:1x"}) {
        const auto parsed = parse_host_port(text);
        ASSERT_FALSE(parsed) << text;
        EXPECT_EQ(parsed.status().code(), Code::invalid_argument);
        EXPECT_NE(parsed.status().message().find("host:port"), std::string::npos);
    }
}

TEST(Socket, ConnectsOverEveryKindOfAddress) {
    for (const char* host : {"127.0.0.1", "::1", "localhost"}) {
        auto listener = listen_tcp({host, 0});
        if (!listener && std::string(host) == "::1") continue;  // a host without IPv6
        ASSERT_TRUE(listener) << listener.status().to_string();
        const auto address = local_address(listener->get());
        ASSERT_TRUE(address);
        EXPECT_NE(address->port, 0);
        EXPECT_TRUE(is_loopback(address->host)) << address->host;
        auto client = connect_tcp({host, address->port}, now() + std::chrono::seconds(5));
        ASSERT_TRUE(client) << client.status().to_string();
        EXPECT_EQ(peer_address(client->get())->port, address->port);
        EXPECT_EQ(::fcntl(client->get(), F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
        EXPECT_EQ(::fcntl(client->get(), F_GETFL) & O_NONBLOCK, O_NONBLOCK);
        int no_delay = 0;
        socklen_t length = sizeof(no_delay);
        ::getsockopt(client->get(), IPPROTO_TCP, TCP_NODELAY, &no_delay, &length);
        EXPECT_NE(no_delay, 0);
    }
}

TEST(Socket, AnIdleListenerHasNobody) {
    auto listener = listen_tcp({"127.0.0.1", 0});
    ASSERT_TRUE(listener);
    const auto nobody = accept_tcp(listener->get());
    ASSERT_TRUE(nobody);
    EXPECT_FALSE(*nobody);
}

TEST(Socket, APortInUseSaysSoAndWhatToDo) {
    auto first = listen_tcp({"127.0.0.1", 0});
    ASSERT_TRUE(first);
    const auto address = local_address(first->get());
    const auto second = listen_tcp(*address);
    ASSERT_FALSE(second);
    EXPECT_NE(second.status().message().find(address->text()), std::string::npos);
    EXPECT_NE(second.status().message().find("choose another port"), std::string::npos);
}

TEST(Socket, NobodyListeningIsUnreachable) {
    HostPort address;
    {
        auto listener = listen_tcp({"127.0.0.1", 0});
        address = *local_address(listener->get());
    }
    const auto client = connect_tcp(address, now() + std::chrono::seconds(5));
    ASSERT_FALSE(client);
    EXPECT_EQ(client.status().code(), Code::unreachable);
    EXPECT_NE(client.status().message().find(address.text()), std::string::npos);
}

TEST(Socket, AnUnknownNameIsUnreachable) {
    const auto client = connect_tcp({"no-such-host.invalid", 1}, now() + std::chrono::seconds(5));
    ASSERT_FALSE(client);
    EXPECT_EQ(client.status().code(), Code::unreachable);
    EXPECT_NE(client.status().message().find("no-such-host.invalid"), std::string::npos);
}

TEST(Socket, KnowsLoopbackAddresses) {
    for (const char* host : {"127.0.0.1", "127.9.9.9", "::1"})
        EXPECT_TRUE(is_loopback(host)) << host;
    for (const char* host : {"0.0.0.0", "10.0.0.1", "::", "fe80::1", "localhost", ""}) {
        EXPECT_FALSE(is_loopback(host)) << host;
    }
}

}  // namespace
}  // namespace mc::testing
