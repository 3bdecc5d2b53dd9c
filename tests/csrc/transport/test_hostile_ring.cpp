// SPDX-License-Identifier: Apache-2.0
// A peer on this host that misuses the shared ring as its receiver, or tries to take it away.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstring>
#include <random>
#include <thread>

#include "transport/shm/ring.hpp"
#include "transport/shm/shm_lane.hpp"
#include "transport/support/links.hpp"
#include "transport/support/near_side.hpp"
#include "transport/support/pages.hpp"

namespace mc::testing {
namespace {

constexpr std::size_t kRingBytes = RingMemory::kSmallest;

// The side that adopts it has the same descriptor, and may not be robbed of the memory behind it.
TEST(RingMemory, CannotBeResizedByEitherSide) {
    auto memory = RingMemory::create(kRingBytes);
    ASSERT_TRUE(memory);
    const FileDescriptor shared(::dup((*memory)->descriptor()));
    for (const off_t bytes : {off_t{0}, off_t{4096}, off_t{1} << 40}) {
        EXPECT_EQ(::ftruncate(shared.get(), bytes), -1) << bytes;
        EXPECT_EQ(errno, EPERM);
    }
    EXPECT_EQ(::fcntl(shared.get(), F_ADD_SEALS, F_SEAL_WRITE), -1) << "it can be write-protected";
    EXPECT_EQ(::fallocate(shared.get(), 0, 0, off_t{1} << 30), -1) << "it can be enlarged";
    (*memory)->to_send().data[0] = 1;
}

// This engine sends; its peer writes what it likes to the words and bytes that they share.
class HostileConsumer : public ::testing::Test {
  protected:
    void SetUp() override {
        auto [mine, theirs] = link_pair(kRingBytes);
        theirs_ = std::move(theirs);
        ASSERT_TRUE(loop_.start("hostile consumer"));
        in_loop(loop_, [&] {
            lane_ = std::make_unique<ShmLane>(
                loop_, std::move(mine), sinks_,
                [this](Status reason) { events_.note([&] { failure_ = std::move(reason); }); },
                log_);
        });
        source_.fill(3);
    }
    void TearDown() override {
        in_loop(loop_, [this] { lane_.reset(); });
        loop_.stop();
        EXPECT_TRUE(source_.holds(3)) << "the sender's own pages were written to";
        EXPECT_TRUE(source_.untouched_but(0, source_.bytes()));
    }
    void push() {
        loop_.post([this] {
            const Piece piece{GrantId{1}, 0, 0, 0, 0, 0, source_.bytes()};
            lane_->push({piece, source_.slice(), hold_, [this](Status status, Moved) {
                             events_.note([&] { ++(status ? moved_ : failed_); });
                         }});
        });
    }
    // What the peer has taken, it says.
    void claim(std::uint64_t position) {
        ring().control->taken.store(position);
        const std::uint64_t one = 1;
        ASSERT_EQ(::write(theirs_.wake_peer.get(), &one, 8), 8);
    }
    [[nodiscard]] const Ring& ring() const { return theirs_.rings->to_receive(); }

    Pages source_{{100, 3000}, 1};
    std::shared_ptr<Hold> hold_ = std::make_shared<Hold>();
    Events events_;
    TestSinks sinks_{events_};
    Log log_{LogLevel::error};
    EventLoop loop_;
    SameHostLink theirs_;
    std::unique_ptr<ShmLane> lane_;
    Status failure_;
    int moved_ = 0, failed_ = 0;
};

TEST_F(HostileConsumer, PositionsAheadOfTheSenderEndTheLane) {
    push();
    in_loop(loop_, [] {});
    claim(UINT64_MAX / 2);
    ASSERT_TRUE(events_.wait([this] { return !failure_.ok() && failed_ == 1; }));
    EXPECT_EQ(failure_.code(), Code::protocol) << failure_.to_string();
}

TEST_F(HostileConsumer, PositionsThatGoBackEndTheLane) {
    push();
    in_loop(loop_, [] {});
    claim(kRingBytes / 2);
    in_loop(loop_, [] {});
    claim(UINT64_MAX - kRingBytes);
    ASSERT_TRUE(events_.wait([this] { return !failure_.ok() && failed_ == 1; }));
    EXPECT_EQ(failure_.code(), Code::protocol) << failure_.to_string();
}

// Not of a record, nor of a cache line.
TEST_F(HostileConsumer, OddPositionsKeepTheSenderWithinTheRing) {
    for (int i = 0; i < 8; ++i) push();
    std::mt19937_64 random(5);
    std::uint64_t taken = 0;
    for (int ended = 0; ended < 8;) {
        taken += random() % (ring().control->written.load() - taken + 1);
        claim(taken);
        in_loop(loop_, [] {});
        events_.note([&] { ended = moved_ + failed_; });
    }
    EXPECT_EQ(moved_, 8);
}

TEST_F(HostileConsumer, RewritingEverythingMovesNothingElse) {
#ifdef __SANITIZE_THREAD__
    GTEST_SKIP() << "the data race is what is tested";
#endif
    std::atomic<bool> stop{false};
    std::thread vandal([&] {
        std::mt19937_64 random(7);
        while (!stop.load()) {
            ring().data[random() % kRingBytes] = static_cast<std::uint8_t>(random());
            ring().control->producer_waits.store(static_cast<std::uint32_t>(random() % 2));
            // Mostly as if all had been taken, so that the sender goes on.
            const std::uint64_t written = ring().control->written.load();
            ring().control->taken.store(written - random() % kRingBytes / 2);
        }
    });
    for (int i = 0; i < 200; ++i) {
        push();
        const std::uint64_t one = 1;
        ASSERT_EQ(::write(theirs_.wake_peer.get(), &one, 8), 8);
        in_loop(loop_, [] {});
    }
    stop = true;
    vandal.join();
    in_loop(loop_, [this] { lane_->close(Status(Code::aborted, "enough")); });
    EXPECT_TRUE(events_.wait([this] { return moved_ + failed_ == 200; })) << "a push got no answer";
}

// Memory that is given back to the kernel under both reads as zeros, which are no header.
TEST_F(HostileConsumer, HolesInTheRingAreNoRecords) {
    const FileDescriptor shared(::dup(theirs_.rings->descriptor()));
    const Ring& to_us = theirs_.rings->to_send();
    std::memset(to_us.data, 0x5a, to_us.capacity);
    ASSERT_EQ(::fallocate(shared.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 2 * 4096,
                          static_cast<off_t>(2 * kRingBytes)),
              0);
    to_us.control->written.store(4096);
    const std::uint64_t one = 1;
    ASSERT_EQ(::write(theirs_.wake_peer.get(), &one, 8), 8);
    ASSERT_TRUE(events_.wait([this] { return !failure_.ok(); }));
    EXPECT_EQ(failure_.code(), Code::protocol) << failure_.to_string();
}

}  // namespace
}  // namespace mc::testing
