// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>
#include <pthread.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <atomic>
#include <ctime>
#include <future>
#include <thread>
#include <vector>

#include "transport/activity.hpp"
#include "transport/support/near_side.hpp"

namespace mc {
namespace {

using testing::in_loop;

FileDescriptor make_eventfd() { return FileDescriptor(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)); }

void signal(const FileDescriptor& fd) {
    const std::uint64_t one = 1;
    ASSERT_EQ(::write(fd.get(), &one, sizeof(one)), 8);
}

class EventLoopTest : public ::testing::Test {
  protected:
    void SetUp() override { ASSERT_TRUE(loop_.start("event loop test")); }

    EventLoop loop_;
};

TEST_F(EventLoopTest, RunsTasksInOrderInItsThread) {
    std::vector<int> order;
    std::promise<void> done;
    for (int i = 0; i < 1000; ++i) loop_.post([&, i] { order.push_back(i); });
    loop_.post([&] {
        EXPECT_TRUE(loop_.in_loop_thread());
        done.set_value();
    });
    done.get_future().wait();
    EXPECT_FALSE(loop_.in_loop_thread());
    ASSERT_EQ(order.size(), 1000U);
    EXPECT_TRUE(std::is_sorted(order.begin(), order.end()));
}

TEST_F(EventLoopTest, RunsTasksFromManyThreads) {
    std::atomic<int> count{0};
    std::vector<std::thread> threads;
    for (int i = 0; i < 4; ++i) {
        threads.emplace_back([&] {
            for (int j = 0; j < 5000; ++j) loop_.post([&] { ++count; });
        });
    }
    for (std::thread& thread : threads) thread.join();
    loop_.stop();
    EXPECT_EQ(count.load(), 20'000);
}

TEST_F(EventLoopTest, StopRunsWhatWasPostedAndDropsWhatComesLater) {
    int ran = 0;
    loop_.post([&] {
        ++ran;
        loop_.post([&] { ++ran; });
    });
    loop_.stop();
    EXPECT_EQ(ran, 2);
    auto held = std::make_shared<int>(0);
    EXPECT_FALSE(loop_.post([held, &ran] { ++ran; }));
    EXPECT_EQ(held.use_count(), 1);
    EXPECT_EQ(ran, 2);
    loop_.stop();
}

TEST_F(EventLoopTest, RunsExactlyWhatItTookWhileItStops) {
    for (int round = 0; round < 200; ++round) {
        EventLoop loop;
        ASSERT_TRUE(loop.start("round"));
        int ran = 0;  // in the loop's thread
        std::atomic<int> taken{0};
        std::atomic<bool> posting{false};
        std::thread poster([&] {
            while (loop.post([&] { ++ran; })) {
                ++taken;
                posting = true;
            }
        });
        while (!posting) std::this_thread::yield();
        loop.stop();
        poster.join();
        EXPECT_EQ(ran, taken.load());
    }
}

TEST_F(EventLoopTest, ReportsEventsUntilUnwatched) {
    const FileDescriptor fd = make_eventfd();
    std::promise<std::uint32_t> seen;
    int calls = 0;
    in_loop(loop_, [&] {
        ASSERT_TRUE(loop_.watch(fd.get(), EPOLLIN, [&](std::uint32_t events) {
            ++calls;
            loop_.unwatch(fd.get());  // level-triggered: it would be called for ever
            seen.set_value(events);
        }));
    });
    signal(fd);
    EXPECT_EQ(seen.get_future().get() & EPOLLIN, EPOLLIN);
    in_loop(loop_, [] {});
    in_loop(loop_, [] {});
    EXPECT_EQ(calls, 1);
}

TEST_F(EventLoopTest, ChangesWhatIsWatched) {
    const FileDescriptor fd = make_eventfd();
    std::promise<void> writable;
    in_loop(loop_, [&] {
        ASSERT_TRUE(loop_.watch(fd.get(), EPOLLIN, [&](std::uint32_t events) {
            EXPECT_EQ(events, EPOLLOUT);
            loop_.unwatch(fd.get());
            writable.set_value();
        }));
        ASSERT_TRUE(loop_.change(fd.get(), EPOLLOUT));
    });
    writable.get_future().wait();
}

TEST_F(EventLoopTest, AHandlerIsNotCalledOnceAnotherHandlerHasUnwatchedIt) {
    // Both are ready in one round; whichever comes first removes the other, and gives its number to
    // a new descriptor, whose handler must not get the old one's event.
    FileDescriptor first = make_eventfd();
    FileDescriptor second = make_eventfd();
    signal(first);
    signal(second);
    int old_calls = 0;
    int new_calls = 0;
    FileDescriptor replacement;
    const auto handler = [&](FileDescriptor& mine, FileDescriptor& other) {
        return [&](std::uint32_t) {
            ++old_calls;
            const int number = other.get();
            loop_.unwatch(mine.get());
            loop_.unwatch(number);
            other.reset();
            replacement = make_eventfd();
            EXPECT_EQ(replacement.get(), number);
            ASSERT_TRUE(loop_.watch(number, EPOLLIN, [&](std::uint32_t) { ++new_calls; }));
        };
    };
    in_loop(loop_, [&] {
        ASSERT_TRUE(loop_.watch(first.get(), EPOLLIN, handler(first, second)));
        ASSERT_TRUE(loop_.watch(second.get(), EPOLLIN, handler(second, first)));
    });
    in_loop(loop_, [] {});
    in_loop(loop_, [] {});
    EXPECT_EQ(old_calls, 1);
    EXPECT_EQ(new_calls, 0);
    in_loop(loop_, [&] { loop_.unwatch(replacement.get()); });
}

TEST_F(EventLoopTest, TheTimerFiresOnceAndNotEarly) {
    std::promise<Instant> fired;
    int calls = 0;
    const Instant when = now() + std::chrono::milliseconds(5);
    in_loop(loop_, [&] {
        loop_.set_timer(now() + std::chrono::hours(1), [&] { ADD_FAILURE() << "was replaced"; });
        loop_.set_timer(when, [&] {
            ++calls;
            fired.set_value(now());
        });
    });
    EXPECT_GE(fired.get_future().get(), when);
    in_loop(loop_, [] {});
    EXPECT_EQ(calls, 1);
}

TEST_F(EventLoopTest, TheTimerMaySetItselfAgainAndBeTakenBack) {
    std::promise<void> done;
    int calls = 0;
    std::function<void()> again = [&] {
        if (++calls == 3) return done.set_value();
        loop_.set_timer(now(), again);
    };
    in_loop(loop_, [&] { loop_.set_timer(now(), again); });
    done.get_future().wait();
    in_loop(loop_, [&] {
        loop_.set_timer(now(), [&] { ADD_FAILURE() << "was taken back"; });
        loop_.set_timer(std::nullopt, nullptr);
    });
    in_loop(loop_, [] {});
    EXPECT_EQ(calls, 3);
}

TEST_F(EventLoopTest, AnActivityIsScheduledOnceAndTakenBackWithItsOwner) {
    int steps = 0;
    std::unique_ptr<Activity> activity;
    in_loop(loop_, [&] {
        activity = std::make_unique<Activity>(loop_, [&] {
            if (++steps < 3) activity->schedule();
        });
        activity->schedule();
        activity->schedule();
    });
    for (int i = 0; i < 5; ++i) in_loop(loop_, [] {});
    EXPECT_EQ(steps, 3);
    in_loop(loop_, [&] {
        activity->schedule();
        activity.reset();
    });
    in_loop(loop_, [] {});
    EXPECT_EQ(steps, 3);
}

// It lets whoever else wants the core go first, so how soon it has used any time says nothing.
TEST_F(EventLoopTest, LooksForMoreBeforeItSleeps) {
    EventLoop loop;
    ASSERT_TRUE(loop.start("busy", std::chrono::hours(1)));
    clockid_t used{};
    in_loop(loop, [&] { ASSERT_EQ(::pthread_getcpuclockid(::pthread_self(), &used), 0); });
    const auto seconds = [&] {
        timespec time{};
        EXPECT_EQ(::clock_gettime(used, &time), 0);
        return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
    };
    const double before = seconds();
    const Instant patience = now() + std::chrono::seconds(60);
    while (seconds() < before + 0.005 && now() < patience)
        std::this_thread::sleep_for(std::chrono::milliseconds(5));
    EXPECT_GE(seconds(), before + 0.005) << "it slept";

    const FileDescriptor fd = make_eventfd();
    std::promise<void> seen, fired;
    in_loop(loop, [&] {
        ASSERT_TRUE(loop.watch(fd.get(), EPOLLIN, [&](std::uint32_t) {
            loop.unwatch(fd.get());
            seen.set_value();
        }));
        loop.set_timer(now() + std::chrono::milliseconds(5), [&] { fired.set_value(); });
    });
    fired.get_future().wait();
    signal(fd);
    seen.get_future().wait();
}

TEST_F(EventLoopTest, IdleCostsNoProcessorTime) {
    EventLoop briefly_busy;
    ASSERT_TRUE(briefly_busy.start("briefly busy", std::chrono::milliseconds(1)));
    in_loop(loop_, [] {});
    in_loop(briefly_busy, [] {});
    const std::clock_t before = std::clock();  // of the whole process, not of the wall
    std::this_thread::sleep_for(std::chrono::milliseconds(300));
    const double seconds = static_cast<double>(std::clock() - before) / CLOCKS_PER_SEC;
    EXPECT_LT(seconds, 0.15);
}

}  // namespace
}  // namespace mc
