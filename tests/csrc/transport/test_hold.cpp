// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <atomic>
#include <thread>
#include <vector>

#include "transport/hold.hpp"

namespace mc {
namespace {

TEST(Hold, LetsInOnlyThePresentEpoch) {
    Hold hold;
    EXPECT_TRUE(hold.enter(0));
    hold.leave();
    EXPECT_FALSE(hold.enter(1));
    hold.advance(1);
    EXPECT_FALSE(hold.enter(0));
    EXPECT_TRUE(hold.enter(1));
    hold.leave();
    hold.advance(UINT32_MAX);
    EXPECT_TRUE(hold.current(UINT32_MAX));
    EXPECT_TRUE(hold.enter(UINT32_MAX));
    hold.leave();
}

TEST(Hold, AnIdleOneClosesAtOnce) {
    Hold hold;
    int calls = 0;
    hold.close([&] { ++calls; });
    EXPECT_EQ(calls, 1);
    EXPECT_FALSE(hold.enter(0));
    EXPECT_FALSE(hold.current(0));
}

TEST(Hold, CloseWaitsForTheLastOneInside) {
    Hold hold;
    int calls = 0;
    ASSERT_TRUE(hold.enter(0));
    ASSERT_TRUE(hold.enter(0));
    hold.close([&] { ++calls; });
    EXPECT_FALSE(hold.enter(0));
    hold.leave();
    EXPECT_EQ(calls, 0);
    hold.leave();
    EXPECT_EQ(calls, 1);
}

TEST(Hold, ClosingTwiceTellsBoth) {
    Hold hold;
    int calls = 0;
    ASSERT_TRUE(hold.enter(0));
    hold.close([&] { calls += 1; });
    hold.close([&] { calls += 10; });
    hold.leave();
    EXPECT_EQ(calls, 11);
    hold.close([&] { calls += 100; });
    EXPECT_EQ(calls, 111);
}

TEST(Hold, WhoIsInsideSeesThatTheEpochMoved) {
    Hold hold;
    ASSERT_TRUE(hold.enter(0));
    EXPECT_TRUE(hold.current(0));
    hold.advance(1);
    EXPECT_FALSE(hold.current(0));
    EXPECT_TRUE(hold.current(1));
    hold.leave();
}

TEST(Hold, DrainingLeavesItOpen) {
    Hold hold;
    int calls = 0;
    ASSERT_TRUE(hold.enter(0));
    hold.advance(1);
    hold.when_drained([&] { ++calls; });
    EXPECT_EQ(calls, 0);
    hold.leave();
    EXPECT_EQ(calls, 1);
    EXPECT_TRUE(hold.enter(1));
    hold.leave();
    EXPECT_EQ(calls, 1);
}

TEST(Hold, CloseWhileDraining) {
    Hold hold;
    int drained = 0;
    int closed = 0;
    ASSERT_TRUE(hold.enter(0));
    hold.when_drained([&] { ++drained; });
    hold.close([&] { ++closed; });
    hold.leave();
    EXPECT_EQ(drained, 1);
    EXPECT_EQ(closed, 1);
}

TEST(Hold, AVisitLeaves) {
    Hold hold;
    int calls = 0;
    {
        const HoldVisit visit(hold, 0);
        EXPECT_TRUE(visit);
        hold.close([&] { ++calls; });
        EXPECT_EQ(calls, 0);
    }
    EXPECT_EQ(calls, 1);
    const HoldVisit refused(hold, 0);
    EXPECT_FALSE(refused);
}

TEST(Hold, NobodyIsInsideAfterTheCallbackWhateverTheThreadsDo) {
    for (int round = 0; round < 200; ++round) {
        Hold hold;
        // Plain memory: ThreadSanitizer sees any access that is not ordered before the owner's.
        int page = 0;
        std::atomic<int> inside{0};
        std::atomic<int> inside_at_close{-1};
        std::atomic<bool> idle{false};
        std::vector<std::thread> threads;
        std::mutex one_at_a_time;
        for (int i = 0; i < 3; ++i) {
            threads.emplace_back([&] {
                for (;;) {
                    const HoldVisit visit(hold, 0);
                    if (!visit) return;
                    inside.fetch_add(1);
                    {
                        const std::lock_guard lock(one_at_a_time);
                        ++page;
                    }
                    inside.fetch_sub(1);
                }
            });
        }
        while (inside.load() == 0) std::this_thread::yield();
        hold.close([&] {
            inside_at_close = inside.load();
            page = -1;
            idle = true;
        });
        for (std::thread& thread : threads) thread.join();
        EXPECT_TRUE(idle.load());
        EXPECT_EQ(inside_at_close.load(), 0);
        EXPECT_EQ(page, -1);
    }
}

}  // namespace
}  // namespace mc
