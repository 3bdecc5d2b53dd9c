// SPDX-License-Identifier: Apache-2.0
// What becomes of transfers when a path drops, delays, cuts short, refuses or dies.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <mutex>
#include <numeric>
#include <utility>
#include <vector>

#include "engine/rig.hpp"
#include "transport/fault/fault_path.hpp"

namespace mc {
namespace {

using ::testing::HasSubstr;
using testing::kPatience;
using testing::TestEngine;

constexpr std::uint32_t kPageCount = 48;
constexpr std::uint32_t kPageBytes = 20'000;  // too many for the control message

// A FaultPath that others can find as long as it lives.
class Findable final : public Path {
  public:
    explicit Findable(std::shared_ptr<FaultPath> inner) : inner_(std::move(inner)) {}

    [[nodiscard]] PathKind kind() const override { return inner_->kind(); }
    void push(Push job) override { inner_->push(std::move(job)); }
    void pull(Pull job) override { inner_->pull(std::move(job)); }
    void end(GrantId grant, std::uint32_t epoch) override { inner_->end(grant, epoch); }
    [[nodiscard]] std::uint64_t outstanding() const override { return inner_->outstanding(); }
    void close(Status reason) override { inner_->close(std::move(reason)); }

  private:
    const std::shared_ptr<FaultPath> inner_;
};

// Puts a FaultPath around every path of the engines that use it.
class Faults {
  public:
    using Arm = std::function<void(FaultPath&)>;

    // What is done to the paths that are made from now on.
    void arm(Arm arm) {
        const std::lock_guard lock(mutex_);
        arm_ = std::move(arm);
    }
    // Does it to all paths that are there, each in its own thread.
    void now(const Arm& what) {
        const std::lock_guard lock(mutex_);
        for (const auto& [loop, path] : made_) {
            loop->post([weak = path, what] {
                if (const auto there = weak.lock()) what(*there);
            });
        }
    }
    EngineOptions options() {
        EngineOptions options;
        options.wrap_path = [this](EventLoop& loop, std::unique_ptr<Path> inner,
                                   const EngineOptions::OnFailure& on_failure) {
            const auto path = std::make_shared<FaultPath>(std::move(inner), on_failure);
            const std::lock_guard lock(mutex_);
            if (arm_) arm_(*path);
            made_.emplace_back(&loop, path);
            return std::make_unique<Findable>(path);
        };
        return options;
    }

  private:
    std::mutex mutex_;
    Arm arm_;
    std::vector<std::pair<EventLoop*, std::weak_ptr<FaultPath>>> made_;
};

class EngineFaults : public ::testing::TestWithParam<PathKind> {
  protected:
    void SetUp() override {
        sender.fill(pages, 7);
        receiver.fill(pages, 252);
    }
    std::pair<std::shared_ptr<Transfer>, std::shared_ptr<Transfer>> start(
        const std::string& tag, Duration deadline = kPatience) {
        const auto send = sender.send(tag);
        EXPECT_TRUE(sender->append(*send, {"kv", pages, 0}));
        EXPECT_TRUE(sender->mark_ready(*send, kPageCount));
        EXPECT_TRUE(sender->finish(*send, {}));
        return {send, receiver.recv(sender->address(), tag, pages, deadline)};
    }
    // The transfer ends badly at both sides, and nothing is written any more.
    void expect_failure(
        const std::pair<std::shared_ptr<Transfer>, std::shared_ptr<Transfer>>& transfer,
        const std::string& why) {
        const auto received = receiver->wait(*transfer.second, kPatience);
        ASSERT_TRUE(received) << "it never ended";
        EXPECT_FALSE(received->status);
        EXPECT_THAT(received->status.message(), HasSubstr(why));
        receiver.fill(pages, 251);
        (void)sender->abort(*transfer.first, "the receiver is gone");
        ASSERT_TRUE(sender->wait(*transfer.first, kPatience)) << "it never ended";
        EXPECT_EQ(receiver.others(pages, 251), 0U) << "written after the transfer had ended";
    }
    void expect_success(
        const std::pair<std::shared_ptr<Transfer>, std::shared_ptr<Transfer>>& transfer) {
        const auto received = receiver->wait(*transfer.second, kPatience);
        ASSERT_TRUE(received) << "it never ended";
        EXPECT_TRUE(received->status) << received->status.message();
        const auto sent = sender->wait(*transfer.first, kPatience);
        ASSERT_TRUE(sent) << "it never ended";
        EXPECT_TRUE(sent->status) << sent->status.message();
        EXPECT_EQ(receiver.others(pages, 7), 0U);
    }

    // What comes while one side has not noticed yet that the session is gone still fails.
    void expect_recovery() {
        for (int number = 0; number < 100; ++number) {
            const auto transfer = start("another " + std::to_string(number));
            const auto received = receiver->wait(*transfer.second, kPatience);
            ASSERT_TRUE(received) << "it never ended";
            if (received->status) return expect_success(transfer);
            (void)sender->abort(*transfer.first, "the receiver is gone");
        }
        ADD_FAILURE() << "the engines do not find together again";
    }

    Faults faults;
    const std::vector<std::int32_t> pages = [] {
        std::vector<std::int32_t> all(kPageCount);
        std::iota(all.rbegin(), all.rend(), 0);
        return all;
    }();
    TestEngine sender{GetParam(), kPageCount, kPageBytes, faults.options()};
    TestEngine receiver{GetParam(), kPageCount, kPageBytes, faults.options()};
};

TEST_P(EngineFaults, WithoutFaultsItGoesWell) { expect_success(start("tag")); }

TEST_P(EngineFaults, APathThatRefusesFailsTheTransfer) {
    faults.arm([](FaultPath& path) { path.refuse(Status(Code::internal, "a refusal")); });
    expect_failure(start("tag"), "a refusal");
    faults.arm({});
    faults.now([](FaultPath& path) { path.pass(); });
    expect_success(start("the next one"));
}

TEST_P(EngineFaults, APathThatIsCutFailsTheTransferAndIsMadeAnew) {
    faults.arm([](FaultPath& path) { path.truncate_after(100'000); });
    expect_failure(start("tag"), "");
    faults.arm({});
    expect_recovery();
}

TEST_P(EngineFaults, APathThatDiesFailsTheTransferAndIsMadeAnew) {
    faults.arm([](FaultPath& path) { path.delay(); });
    const auto transfer = start("tag");
    // Again and again: some paths are made later than others.
    while (!receiver->wait(*transfer.second, std::chrono::milliseconds(5)))
        faults.now([](FaultPath& path) { path.kill(Status(Code::peer_lost, "a sudden death")); });
    expect_failure(transfer, "");
    faults.arm({});
    expect_recovery();
}

TEST_P(EngineFaults, ADelayIsWaitedFor) {
    faults.arm([](FaultPath& path) { path.delay(); });
    const auto transfer = start("tag");
    EXPECT_FALSE(receiver->wait(*transfer.second, std::chrono::milliseconds(50)));
    faults.arm({});
    faults.now([](FaultPath& path) { path.release(); });
    expect_success(transfer);
}

TEST_P(EngineFaults, WhatIsDroppedFailsAtTheDeadline) {
    faults.arm([](FaultPath& path) { path.drop(); });
    const auto transfer = start("tag", std::chrono::milliseconds(300));
    if (GetParam() == PathKind::shm || GetParam() == PathKind::tcp) {
        // The sender's pages are with a path that may still read them; so are the receiver's with
        // one that may still write, on the others. They come back when the path is closed.
        const auto received = receiver->wait(*transfer.second, kPatience);
        ASSERT_TRUE(received) << "it never ended";
        EXPECT_EQ(received->status.code(), Code::timeout);
    } else {
        EXPECT_FALSE(receiver->wait(*transfer.second, std::chrono::milliseconds(600)));
    }
    sender->close();
    receiver->close();
    EXPECT_TRUE(receiver->wait(*transfer.second, kPatience));
    EXPECT_TRUE(sender->wait(*transfer.first, kPatience));
    EXPECT_EQ(receiver.others(pages, 252), 0U);
}

INSTANTIATE_TEST_SUITE_P(Paths, EngineFaults,
                         ::testing::Values(PathKind::local, PathKind::shm, PathKind::cma,
                                           PathKind::tcp),
                         [](const auto& path) { return std::string(to_string(path.param)); });

}  // namespace
}  // namespace mc
