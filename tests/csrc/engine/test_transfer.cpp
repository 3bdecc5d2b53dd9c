// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <future>
#include <thread>

#include "engine/transfer.hpp"

namespace mc {
namespace {

std::shared_ptr<Transfer> make(std::uint64_t id) {
    return std::make_shared<Transfer>(TransferId{id}, TransferKind::send);
}

TEST(Completions, ReturnsEachTransferOnceInTheOrderOfTheirEnds) {
    Completions completions;
    completions.add(make(2), {});
    completions.add(make(1), Status(Code::aborted, "stop"));
    const auto taken = completions.take();
    ASSERT_EQ(taken.size(), 2U);
    EXPECT_EQ(taken[0]->id, TransferId{2});
    EXPECT_EQ(taken[1]->id, TransferId{1});
    EXPECT_EQ(completions.outcome(*taken[1])->status.code(), Code::aborted);
    EXPECT_TRUE(completions.take().empty());
}

TEST(Completions, SumsBytesAndNamesThePathOfMost) {
    Completions completions;
    const auto transfer = make(1);
    transfer->count(PathKind::shm, {10, 1});
    transfer->count(PathKind::tcp, {100, 5});
    transfer->count(PathKind::shm, {20, 2});
    completions.add(transfer, {});
    const auto outcome = completions.outcome(*transfer);
    ASSERT_TRUE(outcome);
    EXPECT_EQ(outcome->bytes, 130U);
    EXPECT_EQ(outcome->spans, 8U);
    EXPECT_EQ(outcome->path, PathKind::tcp);
    EXPECT_GE(outcome->seconds, 0);
}

TEST(Completions, NamesNoPathWhenNothingMoved) {
    Completions completions;
    const auto transfer = make(1);
    completions.add(transfer, {});
    EXPECT_EQ(completions.outcome(*transfer)->path, std::nullopt);
}

TEST(Completions, WaitsForTheEndOfOne) {
    Completions completions;
    const auto other = make(1);
    const auto transfer = make(2);
    std::promise<void> waiting;
    std::thread waiter([&] {
        waiting.set_value();
        const auto outcome = completions.wait(*transfer, std::chrono::seconds(60));
        ASSERT_TRUE(outcome);
        EXPECT_TRUE(outcome->status.ok());
    });
    waiting.get_future().wait();
    completions.add(other, {});
    completions.add(transfer, {});
    waiter.join();
    EXPECT_EQ(completions.take().size(), 2U) << "waiting takes nothing away";
    EXPECT_TRUE(completions.wait(*transfer, {})) << "it has ended for good";
}

TEST(Completions, GivesUpWaitingInTime) {
    Completions completions;
    const auto transfer = make(1);
    EXPECT_EQ(completions.wait(*transfer, Duration::zero()), std::nullopt);
    EXPECT_EQ(completions.wait(*transfer, -std::chrono::hours(1)), std::nullopt);
    EXPECT_EQ(completions.wait(*transfer, std::chrono::milliseconds(5)), std::nullopt);
    completions.add(transfer, {});
    EXPECT_TRUE(completions.wait(*transfer, Duration::max())) << "no overflow";
}

TEST(Completions, RemembersWhoCame) {
    Completions completions;
    const auto transfer = make(1);
    EXPECT_TRUE(completions.matched(*transfer).empty());
    completions.add_match(*transfer, "a:1", 16);
    completions.add_match(*transfer, "b:2", std::nullopt);
    EXPECT_EQ(completions.matched(*transfer), (Matched{{"a:1", 16}, {"b:2", std::nullopt}}));
}

TEST(SourcePages, TakingBackEndsTheEpochForReadersHereAndElsewhere) {
    SourcePages pages;
    const std::uint64_t before = pages.guard().expected(0);
    ASSERT_TRUE(pages.hold()->current(0));
    const auto* const word =
        reinterpret_cast<const volatile std::uint64_t*>(pages.guard().address());
    EXPECT_EQ(*word, before);

    EXPECT_EQ(pages.take_back(), 1U);
    EXPECT_FALSE(pages.hold()->enter(0));
    EXPECT_NE(*word, before);
    EXPECT_EQ(*word, pages.guard().expected(1));
    EXPECT_EQ(pages.take_back(), 2U);
}

TEST(SourcePages, ClosingWaitsForReaders) {
    SourcePages pages;
    ASSERT_TRUE(pages.hold()->enter(0));
    bool idle = false;
    pages.close([&] { idle = true; });
    EXPECT_FALSE(idle);
    EXPECT_FALSE(pages.hold()->enter(0));
    const auto* const word =
        reinterpret_cast<const volatile std::uint64_t*>(pages.guard().address());
    EXPECT_NE(*word, pages.guard().expected(0));
    pages.hold()->leave();
    EXPECT_TRUE(idle);
}

}  // namespace
}  // namespace mc
