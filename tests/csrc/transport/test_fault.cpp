// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <optional>
#include <vector>

#include "transport/cma/guard.hpp"
#include "transport/fault/fault_path.hpp"
#include "transport/local/local_path.hpp"
#include "transport/support/near_side.hpp"
#include "transport/support/pages.hpp"

namespace mc::testing {
namespace {

// The faults, on a local path: what they do must not depend on the path below.
class FaultTest : public ::testing::Test {
  protected:
    void SetUp() override {
        source_.fill(5);
        ASSERT_TRUE(loop_.start("fault"));
        in_loop(loop_, [this] {
            path_ =
                std::make_unique<FaultPath>(std::make_unique<LocalPath>(loop_),
                                            [this](Status reason) { failures_.push_back(reason); });
        });
    }
    void TearDown() override {
        in_loop(loop_, [this] { path_.reset(); });
        loop_.stop();
    }
    void pull(std::uint64_t offset, std::uint64_t length) {
        const std::size_t number = ended_.size();
        ended_.emplace_back();
        path_->pull({{GrantId{1}, 0, 0, 0, 0, offset, length},
                     source_.slice(),
                     destination_.slice(),
                     destination_hold_,
                     guard_.address(),
                     guard_.expected(0),
                     [this, number](const Status& status, Moved) {
                         EXPECT_FALSE(ended_[number]) << "reported twice";
                         ended_[number] = status.code();
                     }});
    }
    void run(const std::function<void()>& work) {
        in_loop(loop_, work);
        for (int i = 0; i < 3; ++i) in_loop(loop_, [] {});  // what the work has scheduled
    }

    Pages source_{{100, 100}, 1};
    Pages destination_{{50, 200}, 2};
    std::shared_ptr<Hold> source_hold_ = std::make_shared<Hold>();
    std::shared_ptr<Hold> destination_hold_ = std::make_shared<Hold>();
    Guard guard_{source_hold_};
    std::vector<std::optional<Code>> ended_;
    std::vector<Status> failures_;
    EventLoop loop_;
    std::unique_ptr<FaultPath> path_;
};

TEST_F(FaultTest, PassesThrough) {
    run([this] { pull(0, 10'000); });
    EXPECT_EQ(ended_[0], Code::ok);
    EXPECT_TRUE(destination_.holds(5));
    EXPECT_EQ(path_->kind(), PathKind::local);
}

TEST_F(FaultTest, DroppedJobsAreNeverHeardOfUntilTheEnd) {
    run([this] {
        path_->drop();
        pull(0, 10'000);
        path_->pass();
        pull(0, 100);
    });
    EXPECT_FALSE(ended_[0]);
    EXPECT_EQ(ended_[1], Code::ok);
    EXPECT_TRUE(destination_.untouched_but(0, 100));
    run([this] { path_->close(Status(Code::timeout, "enough")); });
    EXPECT_EQ(ended_[0], Code::timeout);
}

TEST_F(FaultTest, DelayedJobsWaitForRelease) {
    run([this] {
        path_->delay();
        pull(0, 5000);
        pull(5000, 5000);
    });
    EXPECT_FALSE(ended_[0]);
    EXPECT_TRUE(destination_.untouched());
    run([this] { path_->release(); });
    EXPECT_EQ(ended_[0], Code::ok);
    EXPECT_EQ(ended_[1], Code::ok);
    EXPECT_TRUE(destination_.holds(5));
}

TEST_F(FaultTest, RefusedJobsFailAtOnce) {
    run([this] {
        path_->refuse(Status(Code::resource_exhausted, "no"));
        pull(0, 10'000);
    });
    EXPECT_EQ(ended_[0], Code::resource_exhausted);
    EXPECT_TRUE(destination_.untouched());
    EXPECT_TRUE(failures_.empty());
}

TEST_F(FaultTest, ACutPathMovesSoManyBytesAndDies) {
    run([this] {
        path_->truncate_after(1500);
        pull(0, 1000);
        pull(1000, 1000);
        pull(2000, 1000);
    });
    EXPECT_EQ(ended_[0], Code::ok);
    EXPECT_EQ(ended_[1], Code::peer_lost);
    EXPECT_EQ(ended_[2], Code::peer_lost);
    EXPECT_TRUE(destination_.holds(5, 0, 1000));
    EXPECT_TRUE(destination_.untouched_but(0, 1500));
    ASSERT_EQ(failures_.size(), 1U);
    EXPECT_EQ(failures_[0].code(), Code::peer_lost);
}

TEST_F(FaultTest, AKilledPathFailsEverythingOnce) {
    run([this] {
        path_->delay();
        pull(0, 100);
        path_->pass();
        pull(100, 100);
        path_->kill(Status(Code::peer_lost, "killed"));
        path_->kill(Status(Code::peer_lost, "again"));
        pull(200, 100);
    });
    for (const auto& each : ended_) EXPECT_EQ(each, Code::peer_lost);
    EXPECT_EQ(failures_.size(), 1U);
    EXPECT_TRUE(destination_.untouched());
}

}  // namespace
}  // namespace mc::testing
