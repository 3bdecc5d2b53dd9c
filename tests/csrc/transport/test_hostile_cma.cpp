// SPDX-License-Identifier: Apache-2.0
// Reads of another process that must not count: of one that took the peer's number over, and of a
// send that was rewound.
#include <gtest/gtest.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "transport/cma/cma_path.hpp"
#include "transport/cma/guard.hpp"
#include "transport/support/near_side.hpp"
#include "transport/support/pages.hpp"

namespace mc::testing {
namespace {

FileDescriptor pidfd_of(pid_t pid) {
    return FileDescriptor(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
}

class HostileCma : public ::testing::Test {
  protected:
    void SetUp() override {
        source_.fill(4);
        ASSERT_TRUE(loop_.start("hostile cma"));
    }
    void TearDown() override { loop_.stop(); }

    // How reading this process's own pages as those of the process of `pidfd` ends.
    Status read(FileDescriptor pidfd, std::uint64_t expected) {
        std::optional<Status> outcome;
        std::unique_ptr<CmaPath> path;
        in_loop(loop_, [&] {
            path = std::make_unique<CmaPath>(loop_, ::getpid(), std::move(pidfd));
            path->pull({{GrantId{1}, 0, 0, 0, 0, 0, source_.bytes()},
                        source_.slice(),
                        destination_.slice(),
                        hold_,
                        guard_.address(),
                        expected,
                        [&](Status status, Moved) {
                            events_.note([&] { outcome = std::move(status); });
                        }});
        });
        EXPECT_TRUE(events_.wait([&] { return outcome.has_value(); }));
        in_loop(loop_, [&] { path.reset(); });
        return outcome.value_or(Status());
    }

    Pages source_{{10, 1000}, 1};
    Pages destination_{{5, 2000}, 2};
    std::shared_ptr<Hold> hold_ = std::make_shared<Hold>();
    Guard guard_{hold_};
    Events events_;
    EventLoop loop_;
};

TEST_F(HostileCma, AnHonestReadCounts) {
    EXPECT_TRUE(read(pidfd_of(::getpid()), guard_.expected(0)));
    EXPECT_TRUE(destination_.holds(4));
}

// The process that was linked has ended; another has its number, its addresses, and even its guard.
TEST_F(HostileCma, AReusedNumberNeverCounts) {
    const pid_t child = ::fork();
    if (child == 0) ::_exit(0);
    FileDescriptor pidfd = pidfd_of(child);
    ASSERT_TRUE(pidfd);
    ASSERT_EQ(::waitpid(child, nullptr, 0), child);
    EXPECT_EQ(read(std::move(pidfd), guard_.expected(0)).code(), Code::peer_lost);
}

TEST_F(HostileCma, ARewoundSendNeverCounts) {
    guard_.advance(1);
    EXPECT_EQ(read(pidfd_of(::getpid()), guard_.expected(0)).code(), Code::aborted);
    EXPECT_TRUE(read(pidfd_of(::getpid()), guard_.expected(1)));
}

TEST_F(HostileCma, ASendThatHasEndedNeverCounts) {
    const std::uint64_t expected = guard_.expected(0);
    guard_.revoke();
    EXPECT_EQ(read(pidfd_of(::getpid()), expected).code(), Code::aborted);
}

}  // namespace
}  // namespace mc::testing
