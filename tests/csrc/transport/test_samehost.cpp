// SPDX-License-Identifier: Apache-2.0
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <string>

#include "transport/samehost/handshake.hpp"
#include "transport/samehost/server.hpp"
#include "transport/shm/ring.hpp"
#include "transport/support/links.hpp"
#include "transport/support/near_side.hpp"

namespace mc::testing {
namespace {

constexpr std::size_t kRingBytes = 128U << 10;

Instant soon() { return now() + std::chrono::seconds(20); }

class SameHost : public ::testing::Test {
  protected:
    void listen(const std::string& ipc_dir = "") {
        ASSERT_TRUE(loop_.start("same host"));
        in_loop(loop_, [&] {
            auto server = SameHostServer::listen(
                loop_, ipc_dir, [this](const Token& token) { return token == token_; },
                [this](const Token&, SameHostLink link) {
                    events_.note([&] { links_.push_back(std::move(link)); });
                },
                log_);
            ASSERT_TRUE(server) << server.status().to_string();
            server_ = std::move(*server);
        });
    }
    void TearDown() override {
        if (server_) in_loop(loop_, [this] { server_.reset(); });
        loop_.stop();
    }
    bool wait_for_link() {
        return events_.wait([this] { return !links_.empty(); });
    }

    const Token token_ = Token::random();
    EventLoop loop_;
    Log log_;
    Events events_;
    std::vector<SameHostLink> links_;
    std::unique_ptr<SameHostServer> server_;
};

TEST_F(SameHost, BothSidesGetTheSameRings) {
    listen();
    auto client = connect_same_host(server_->name(), token_, kRingBytes, soon());
    ASSERT_TRUE(client) << client.status().to_string();
    ASSERT_TRUE(wait_for_link());
    SameHostLink& server = links_.front();
    EXPECT_EQ(client->rings->to_send().capacity, kRingBytes);

    RingProducer producer(client->rings->to_send());
    RingConsumer consumer(server.rings->to_receive());
    producer.place()[0] = 42;
    producer.publish(64);
    auto readable = consumer.readable();
    ASSERT_TRUE(readable);
    ASSERT_EQ(readable->size(), 64U);
    EXPECT_EQ(readable->front(), 42);

    const std::uint64_t one = 1;
    ASSERT_EQ(::write(client->wake_peer.get(), &one, 8), 8);
    std::uint64_t got = 0;
    EXPECT_EQ(::read(server.wake_me.get(), &got, 8), 8);
    ASSERT_EQ(::write(server.wake_peer.get(), &one, 8), 8);
    EXPECT_EQ(::read(client->wake_me.get(), &got, 8), 8);
}

TEST_F(SameHost, KnowsThePeerAndReadsItsMemory) {
    listen();
    auto client = connect_same_host(server_->name(), token_, kRingBytes, soon());
    ASSERT_TRUE(client);
    ASSERT_TRUE(wait_for_link());
    for (const SameHostLink* link : {&*client, &links_.front()}) {
        EXPECT_EQ(link->peer_pid, ::getpid());
        EXPECT_TRUE(link->cma_readable) << link->cma_reason;
        EXPECT_TRUE(link->pidfd);
        EXPECT_EQ(::fcntl(link->pidfd.get(), F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
    }
}

TEST_F(SameHost, AnUnknownTokenIsRefused) {
    listen();
    auto client = connect_same_host(server_->name(), Token::random(), kRingBytes, soon());
    ASSERT_FALSE(client);
    EXPECT_EQ(client.status().code(), Code::authentication_failed);
    EXPECT_FALSE(log_.take().empty());
    EXPECT_TRUE(links_.empty());
}

TEST_F(SameHost, NobodyThereIsUnreachable) {
    listen();
    auto client = connect_same_host("@mooncake_connector.nobody", token_, kRingBytes, soon());
    ASSERT_FALSE(client);
    EXPECT_EQ(client.status().code(), Code::unreachable);
    EXPECT_NE(client.status().message().find("@mooncake_connector.nobody"), std::string::npos);
    EXPECT_FALSE(connect_same_host("", token_, kRingBytes, soon()));
    EXPECT_EQ(connect_same_host(std::string(200, 'x'), token_, kRingBytes, soon()).status().code(),
              Code::invalid_argument);
}

TEST_F(SameHost, ASilentServerEndsAtTheDeadline) {
    listen();
    in_loop(loop_, [] {});
    std::promise<void> release;
    loop_.post([waiting = release.get_future().share()] { waiting.wait(); });
    auto client = connect_same_host(server_->name(), token_, kRingBytes,
                                    now() + std::chrono::milliseconds(50));
    release.set_value();
    ASSERT_FALSE(client);
    EXPECT_NE(client.status().message().find("no answer"), std::string::npos);
}

TEST_F(SameHost, GarbageIsRefusedAndTheNextPeerServed) {
    listen();
    for (const std::size_t bytes : {std::size_t{0}, std::size_t{5}, sizeof(samehost::Request)}) {
        auto address = samehost::socket_address(server_->name());
        ASSERT_TRUE(address);
        const FileDescriptor socket(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
        ASSERT_EQ(
            ::connect(socket.get(), reinterpret_cast<const sockaddr*>(address->storage.data()),
                      address->length),
            0);
        const std::vector<std::uint8_t> garbage(bytes, 0x5a);
        if (bytes > 0) {
            ASSERT_EQ(::send(socket.get(), garbage.data(), bytes, 0), bytes);
            char byte = 0;
            EXPECT_LE(::recv(socket.get(), &byte, 1, 0), 0) << "it should hang up";
        }
    }
    EXPECT_TRUE(connect_same_host(server_->name(), token_, kRingBytes, soon()));
}

TEST_F(SameHost, ManySilentConnectionsDoNoHarm) {
    listen();
    std::vector<FileDescriptor> silent;
    auto address = samehost::socket_address(server_->name());
    for (int i = 0; i < 200; ++i) {
        silent.emplace_back(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
        ASSERT_EQ(
            ::connect(silent.back().get(),
                      reinterpret_cast<const sockaddr*>(address->storage.data()), address->length),
            0);
    }
    EXPECT_TRUE(connect_same_host(server_->name(), token_, kRingBytes, soon()));
}

TEST_F(SameHost, TheFolderHoldsASocketThatOthersCannotReach) {
    const std::filesystem::path folder =
        std::filesystem::temp_directory_path() / ("mc-" + Token::random().hex());
    listen(folder.string());
    EXPECT_EQ(server_->name().find(folder.string()), 0U);
    struct stat about{};
    ASSERT_EQ(::stat(folder.c_str(), &about), 0);
    EXPECT_EQ(about.st_mode & 0777, 0700U);
    EXPECT_TRUE(connect_same_host(server_->name(), token_, kRingBytes, soon()));
    const std::string name = server_->name();
    in_loop(loop_, [this] { server_.reset(); });
    EXPECT_FALSE(std::filesystem::exists(name));
    std::filesystem::remove_all(folder);
}

TEST_F(SameHost, AFolderThatOthersMayEnterIsRefused) {
    const std::filesystem::path folder =
        std::filesystem::temp_directory_path() / ("mc-" + Token::random().hex());
    ASSERT_EQ(::mkdir(folder.c_str(), 0777), 0);
    ASSERT_EQ(::chmod(folder.c_str(), 0755), 0);
    auto server = SameHostServer::listen(loop_, folder.string(), nullptr, nullptr, log_);
    ASSERT_FALSE(server);
    EXPECT_EQ(server.status().code(), Code::invalid_argument);
    EXPECT_NE(server.status().message().find("chmod 700"), std::string::npos);
    std::filesystem::remove_all(folder);
}

// In a process of its own the peer may be what this one is not.
class SameHostProcess : public SameHost {
  protected:
    // Runs in a forked child once the server listens; its exit status says whether it was content.
    template <typename Work>
    void fork_client(Work work) {
        int gate[2];
        ASSERT_EQ(::pipe2(gate, O_CLOEXEC), 0);
        child_ = ::fork();
        ASSERT_GE(child_, 0);
        if (child_ == 0) {
            char name[128] = {};
            ::close(gate[1]);
            if (::read(gate[0], name, sizeof(name) - 1) <= 0) ::_exit(2);
            ::_exit(work(std::string(name)) ? 0 : 1);
        }
        ::close(gate[0]);
        listen();
        const std::string name = server_->name();
        ASSERT_EQ(::write(gate[1], name.data(), name.size()), static_cast<ssize_t>(name.size()));
        ::close(gate[1]);
    }
    int wait_for_client() {
        int status = -1;
        ::waitpid(child_, &status, 0);
        return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
    }

    pid_t child_ = 0;
};

TEST_F(SameHostProcess, TwoProcessesReadEachOther) {
    fork_client([this](const std::string& name) {
        auto link = connect_same_host(name, token_, kRingBytes, soon());
        return link.ok() && link->peer_pid == ::getppid() && link->cma_readable;
    });
    EXPECT_EQ(wait_for_client(), 0);
    ASSERT_TRUE(wait_for_link());
    EXPECT_EQ(links_.front().peer_pid, child_);
    EXPECT_TRUE(links_.front().cma_readable) << links_.front().cma_reason;
}

TEST_F(SameHostProcess, AnotherUserSharesRingsButNotItsMemory) {
    if (::geteuid() != 0) GTEST_SKIP() << "only root can become another user";
    fork_client([this](const std::string& name) {
        constexpr uid_t kNobody = 65534;
        if (::setgid(kNobody) != 0 || ::setuid(kNobody) != 0) return false;
        auto link = connect_same_host(name, token_, kRingBytes, soon());
        return link.ok() && !link->cma_readable &&
               link->cma_reason.find("process_vm_readv is refused") != std::string::npos;
    });
    EXPECT_EQ(wait_for_client(), 0);
    EXPECT_TRUE(wait_for_link());
}

TEST(BootId, IsReadable) { EXPECT_EQ(boot_id().size(), 36U); }

TEST(Identify, AWrongNonceIsNotThePeer) {
    int ends[2];
    ASSERT_EQ(::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends), 0);
    const FileDescriptor other(ends[1]);
    SameHostLink link;
    link.socket = FileDescriptor(ends[0]);
    const Token there = Token::random();
    samehost::identify_peer(link, {reinterpret_cast<std::uint64_t>(&there), Token::random()});
    EXPECT_FALSE(link.cma_readable);
    EXPECT_NE(link.cma_reason.find("is not the peer"), std::string::npos);
    EXPECT_FALSE(link.pidfd);
    samehost::identify_peer(link, {8, there});  // not mapped
    EXPECT_FALSE(link.cma_readable);
    samehost::identify_peer(link, {reinterpret_cast<std::uint64_t>(&there), there});
    EXPECT_TRUE(link.cma_readable);
}

}  // namespace
}  // namespace mc::testing
