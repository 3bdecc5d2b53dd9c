// SPDX-License-Identifier: Apache-2.0
#include <fcntl.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <string>
#include <vector>

#include "engine/acceptor.hpp"
#include "transport/support/near_side.hpp"

namespace mc {
namespace {

using testing::Events;
using testing::in_loop;

// Lets recv() wait, but not for ever.
void make_blocking(int socket) {
    const timeval patience{30, 0};
    ::setsockopt(socket, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
    ::fcntl(socket, F_SETFL, ::fcntl(socket, F_GETFL) & ~O_NONBLOCK);
}

class AcceptorTest : public ::testing::Test {
  protected:
    void SetUp() override {
        acceptor_ = std::make_unique<Acceptor>(
            loop_, log_,
            [this](FileDescriptor socket, const Preamble& preamble) {
                events_.note([&] { accepted_.emplace_back(std::move(socket), preamble); });
            },
            [this](Instant when) { events_.note([&] { wakes_.push_back(when); }); });
        ASSERT_TRUE(acceptor_->listen({"127.0.0.1", 0}));
        ASSERT_TRUE(loop_.start("acceptor test"));
    }
    void TearDown() override {
        in_loop(loop_, [&] { acceptor_.reset(); });
    }

    FileDescriptor connect() {
        auto socket = connect_tcp(acceptor_->address(), now() + std::chrono::seconds(10));
        EXPECT_TRUE(socket) << socket.status().message();
        return socket ? std::move(*socket) : FileDescriptor();
    }
    // Waits for the far end's close.
    static bool ended(const FileDescriptor& socket) {
        std::array<char, 16> bytes{};
        make_blocking(socket.get());
        const ssize_t count = ::recv(socket.get(), bytes.data(), bytes.size(), 0);
        return count == 0 || (count < 0 && errno == ECONNRESET);
    }
    std::size_t logged(const std::string& text) {
        std::size_t count = 0;
        for (const LogLine& line : log_.take()) count += line.text.find(text) != std::string::npos;
        return count;
    }

    EventLoop loop_;
    Log log_;
    Events events_;
    std::vector<std::pair<FileDescriptor, Preamble>> accepted_;
    std::vector<Instant> wakes_;
    std::unique_ptr<Acceptor> acceptor_;
};

TEST_F(AcceptorTest, HandsOnWhatSaysWhatItIs) {
    const Token token = Token::random();
    const FileDescriptor control = connect();
    ASSERT_TRUE(send_preamble(control.get(), {Preamble::Kind::control, {}}));
    ASSERT_TRUE(events_.wait([&] { return accepted_.size() == 1; }));
    const FileDescriptor lane = connect();
    ASSERT_TRUE(send_preamble(lane.get(), {Preamble::Kind::lane, token}));
    ASSERT_TRUE(events_.wait([&] { return accepted_.size() == 2; }));
    EXPECT_EQ(accepted_[0].second.kind, Preamble::Kind::control);
    EXPECT_EQ(accepted_[1].second.kind, Preamble::Kind::lane);
    EXPECT_EQ(accepted_[1].second.token, token);
    // What follows the preamble is left for the next reader.
    ASSERT_EQ(::send(lane.get(), "rest", 4, 0), 4);
    std::array<char, 8> rest{};
    make_blocking(accepted_[1].first.get());
    EXPECT_EQ(::recv(accepted_[1].first.get(), rest.data(), rest.size(), 0), 4);
}

TEST_F(AcceptorTest, WaitsForThePreambleByteByByte) {
    const FileDescriptor socket = connect();
    std::array<std::uint8_t, Preamble::kBytes> bytes{};
    encode({Preamble::Kind::control, {}}, bytes);
    for (std::size_t i = 0; i < bytes.size(); ++i) {
        EXPECT_TRUE(accepted_.empty());
        ASSERT_EQ(::send(socket.get(), &bytes[i], 1, 0), 1);
        in_loop(loop_, [] {});
    }
    EXPECT_TRUE(events_.wait([&] { return accepted_.size() == 1; }));
}

TEST_F(AcceptorTest, TurnsStrangersAwayAndSaysSo) {
    const FileDescriptor http = connect();
    const std::string request = "GET /metrics HTTP/1.1\r\nHost: me\r\n\r\n";
    ASSERT_GT(::send(http.get(), request.data(), request.size(), 0), 0);
    EXPECT_TRUE(ended(http));

    const FileDescriptor future = connect();
    std::array<std::uint8_t, Preamble::kBytes> bytes{};
    encode({Preamble::Kind::control, {}}, bytes);
    bytes[4] = 9;  // the version
    ASSERT_GT(::send(future.get(), bytes.data(), bytes.size(), 0), 0);
    EXPECT_TRUE(ended(future));

    const FileDescriptor odd = connect();
    encode({Preamble::Kind::control, {}}, bytes);
    bytes[6] = 3;  // the kind
    ASSERT_GT(::send(odd.get(), bytes.data(), bytes.size(), 0), 0);
    EXPECT_TRUE(ended(odd));

    EXPECT_EQ(logged("refused"), 3U);
    EXPECT_TRUE(accepted_.empty());
}

TEST_F(AcceptorTest, DropsThoseThatSayNothing) {
    const FileDescriptor silent = connect();
    ASSERT_TRUE(events_.wait([&] { return wakes_.size() == 1; }));
    in_loop(loop_, [&] {
        acceptor_->tick(wakes_[0] - std::chrono::milliseconds(1));
        ASSERT_EQ(wakes_.size(), 2U) << "it asks for another tick";
        EXPECT_EQ(wakes_[1], wakes_[0]);
        acceptor_->tick(wakes_[1]);
    });
    EXPECT_TRUE(ended(silent));
}

TEST_F(AcceptorTest, SilentConnectionsKeepNobodyOut) {
    std::vector<FileDescriptor> silent;
    for (int i = 0; i < 1100; ++i) silent.push_back(connect());
    const FileDescriptor speaker = connect();
    ASSERT_TRUE(send_preamble(speaker.get(), {Preamble::Kind::control, {}}));
    EXPECT_TRUE(events_.wait([&] { return accepted_.size() == 1; }));
    EXPECT_TRUE(ended(silent.front())) << "the oldest goes first";
}

TEST_F(AcceptorTest, RefusesWhenNoDescriptorIsLeftAndGoesOnAfterwards) {
    const FileDescriptor early = connect();
    ASSERT_TRUE(send_preamble(early.get(), {Preamble::Kind::control, {}}));
    ASSERT_TRUE(events_.wait([&] { return accepted_.size() == 1; }));

    const FileDescriptor socket(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    rlimit limit{};
    ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &limit), 0);
    const rlim_t before = limit.rlim_cur;
    const FileDescriptor lowest(::dup(socket.get()));
    limit.rlim_cur = static_cast<rlim_t>(lowest.get()) + 1;  // all below are in use
    ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &limit), 0);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    address.sin_port = htons(acceptor_->address().port);
    ASSERT_EQ(::connect(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)),
              0);
    EXPECT_TRUE(ended(socket));
    limit.rlim_cur = before;
    ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &limit), 0);

    EXPECT_EQ(logged("refused a connection"), 1U);
    const FileDescriptor late = connect();
    ASSERT_TRUE(send_preamble(late.get(), {Preamble::Kind::control, {}}));
    EXPECT_TRUE(events_.wait([&] { return accepted_.size() == 2; }));
}

}  // namespace
}  // namespace mc
