// SPDX-License-Identifier: Apache-2.0
// Two engines under load from several threads. Most of what this can find, the sanitizers find.
#include <gtest/gtest.h>

#include <atomic>
#include <numeric>
#include <random>
#include <thread>

#include "engine/rig.hpp"

namespace mc {
namespace {

using testing::kPatience;
using testing::TestEngine;

constexpr std::uint32_t kPages = 48;  // that one worker has on each side

// Pages of one worker, in no order: no two of them neighbours in the same way on both sides.
std::vector<std::int32_t> pages_of(int worker, std::mt19937& random) {
    std::vector<std::int32_t> pages(kPages);
    std::iota(pages.begin(), pages.end(), worker * static_cast<std::int32_t>(kPages));
    std::shuffle(pages.begin(), pages.end(), random);
    return pages;
}

// One request after another: streamed, sometimes taken back, sometimes given up by either side.
// Pages are written anew as soon as their transfer has ended.
void run_requests(TestEngine& sender, TestEngine& receiver, int worker, int requests) {
    std::mt19937 random(static_cast<unsigned>(worker));
    const auto below = [&](std::uint32_t limit) {
        return std::uniform_int_distribution<std::uint32_t>(0, limit - 1)(random);
    };
    const auto chance = [&](std::uint32_t percent) { return below(100) < percent; };
    for (int number = 0; number < requests; ++number) {
        const std::string tag = std::to_string(worker) + "/" + std::to_string(number);
        const auto value = static_cast<std::uint8_t>(1 + below(250));
        const auto there = pages_of(worker, random);
        const auto here = pages_of(worker, random);
        sender.fill(there, value);
        receiver.fill(here, 0);

        std::shared_ptr<Transfer> recv;
        if (chance(50)) recv = receiver.recv(sender->address(), tag, here);
        const auto send = sender.send(tag);
        if (!recv) recv = receiver.recv(sender->address(), tag, here);
        const bool aborts = chance(10);
        const bool cancels = chance(10);
        for (std::uint32_t next = 0; next < kPages;) {
            const std::uint32_t chunk = 1 + below(kPages - next);
            ASSERT_TRUE(sender->append(
                *send, {"kv", {there.begin() + next, there.begin() + next + chunk}, next}));
            next += chunk;
            ASSERT_TRUE(sender->mark_ready(*send, next));
            if (chance(20)) {
                next = below(next + 1);
                ASSERT_TRUE(sender->rewind(*send, next));
            }
            if (aborts && chance(50)) (void)sender->abort(*send, "stop");
            if (cancels && chance(50)) (void)receiver->cancel(*recv);
        }
        ASSERT_TRUE(sender->finish(*send, {}));
        const auto received = receiver->wait(*recv, kPatience);
        ASSERT_TRUE(received) << tag;
        if (!received->status) (void)sender->abort(*send, "the receiver is gone");
        const auto sent = sender->wait(*send, kPatience);
        ASSERT_TRUE(sent) << tag;
        if (!aborts && !cancels) {
            EXPECT_TRUE(received->status) << tag << ": " << received->status.message();
            EXPECT_TRUE(sent->status) << tag << ": " << sent->status.message();
        }
        const std::size_t wrong = received->status ? receiver.others(here, value) : 0;
        EXPECT_EQ(wrong, 0U) << tag;
        sender.fill(there, 251);
        receiver.fill(here, 252);
    }
}

class EngineTest : public ::testing::TestWithParam<PathKind> {};

TEST_P(EngineTest, ManyRequestsFromManyThreads) {
    constexpr int kWorkers = 4;
    for (const std::uint32_t page_bytes : {300U, 20'000U}) {
        TestEngine sender(GetParam(), kWorkers * kPages, page_bytes);
        TestEngine receiver(GetParam(), kWorkers * kPages, page_bytes);
        std::vector<std::thread> workers;
        for (int worker = 0; worker < kWorkers; ++worker)
            workers.emplace_back([&, worker] { run_requests(sender, receiver, worker, 40); });
        std::atomic<bool> over{false};
        std::atomic<std::size_t> completed{0};
        std::thread observer([&] {
            while (!over) {
                completed += sender->poll().size() + receiver->poll().size();
                EXPECT_TRUE(sender->peers());
                EXPECT_TRUE(receiver->stats());
                (void)sender->take_log();
                std::this_thread::sleep_for(std::chrono::milliseconds(1));
            }
        });
        for (std::thread& worker : workers) worker.join();
        over = true;
        observer.join();
        completed += sender->poll().size() + receiver->poll().size();
        EXPECT_EQ(completed, std::size_t{kWorkers * 40 * 2}) << "each exactly once";
        const auto stats = receiver->stats();
        ASSERT_TRUE(stats);
        EXPECT_EQ((*stats).recvs + (*stats).grants_in, 0U);
        sender->close();
        receiver->close();
        for (std::int32_t page = 0; page < kWorkers * static_cast<std::int32_t>(kPages); ++page)
            EXPECT_EQ(receiver.others({page}, 252), 0U) << "written after its transfer had ended";
    }
}

// Whatever is going on when an engine closes: every transfer of it ends, every call returns.
TEST_P(EngineTest, ClosesInTheMiddleOfEverything) {
    for (int round = 0; round < 12; ++round) {
        TestEngine sender(GetParam(), 4 * kPages, 4096);
        TestEngine receiver(GetParam(), 4 * kPages, 4096);
        std::atomic<bool> over{false};
        std::vector<std::thread> callers;
        for (int worker = 0; worker < 3; ++worker) {
            callers.emplace_back([&, worker] {
                std::mt19937 random(static_cast<unsigned>(100 * round + worker));
                const auto pages = pages_of(worker, random);
                std::vector<std::pair<TestEngine*, std::shared_ptr<Transfer>>> open;
                for (int number = 0; !over; ++number) {
                    const std::string tag = std::to_string(worker) + "/" + std::to_string(number);
                    auto send = sender->send(tag, kPatience);
                    auto recv = receiver.try_recv(sender->address(), tag, pages);
                    if (send) {
                        open.emplace_back(&sender, *send);
                        (void)sender->append(**send, {"kv", pages, 0});
                        (void)sender->mark_ready(**send, kPages);
                        (void)sender->finish(**send, {});
                    }
                    if (recv) {
                        open.emplace_back(&receiver, *recv);
                        if (send) (void)receiver->wait(**recv, kPatience);
                    }
                    (void)sender->stats();
                    (void)receiver->peers();
                }
                for (const auto& [engine, transfer] : open)
                    EXPECT_TRUE((*engine)->wait(*transfer, kPatience)) << "it never ended";
            });
        }
        std::this_thread::sleep_for(std::chrono::milliseconds(3 * round));
        (round % 2 == 0 ? sender : receiver)->close();
        over = true;
        (round % 2 == 0 ? receiver : sender)->close();
        for (std::thread& caller : callers) caller.join();
    }
}

INSTANTIATE_TEST_SUITE_P(Paths, EngineTest,
                         ::testing::Values(PathKind::local, PathKind::shm, PathKind::cma,
                                           PathKind::tcp),
                         [](const auto& path) { return std::string(to_string(path.param)); });

}  // namespace
}  // namespace mc
