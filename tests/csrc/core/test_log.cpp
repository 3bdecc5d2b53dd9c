// SPDX-License-Identifier: Apache-2.0
#include "core/log.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <thread>

namespace mc {
namespace {

using testing::HasSubstr;
using testing::IsEmpty;

TEST(Log, KeepsLinesOfItsLevelInOrderUntilTaken) {
    Log log(LogLevel::info);
    EXPECT_FALSE(log.enabled(LogLevel::debug));
    EXPECT_TRUE(log.enabled(LogLevel::error));
    log.write(LogLevel::debug, "not this one");
    log.write(LogLevel::info, "first");
    log.write(LogLevel::error, "second");
    const auto lines = log.take();
    ASSERT_EQ(lines.size(), 2U);
    EXPECT_EQ(lines[0].text, "first");
    EXPECT_EQ(lines[1].text, "second");
    EXPECT_EQ(lines[1].level, LogLevel::error);
    EXPECT_THAT(log.take(), IsEmpty());
}

TEST(Log, DropsTheOldestLinesWhenNobodyTakesThemAndSaysHowMany) {
    Log log;
    constexpr int kLines = 5000;
    for (int i = 0; i < kLines; ++i) log.write(LogLevel::info, std::to_string(i));
    const auto lines = log.take();
    ASSERT_LT(lines.size(), std::size_t{kLines});
    EXPECT_EQ(lines[0].level, LogLevel::warning);
    EXPECT_THAT(lines[0].text,
                HasSubstr(std::to_string(kLines - (lines.size() - 1)) + " log lines were dropped"));
    EXPECT_EQ(lines.back().text, std::to_string(kLines - 1));
    log.write(LogLevel::info, "next");
    EXPECT_EQ(log.take().size(), 1U) << "reported once";
}

TEST(Log, IsWrittenByManyThreads) {
    Log log;
    std::array<std::thread, 4> writers;
    for (std::thread& writer : writers) {
        writer = std::thread([&] {
            for (int i = 0; i < 500; ++i) log.write(LogLevel::info, "line");
        });
    }
    std::size_t taken = 0;
    for (int i = 0; i < 10; ++i) taken += log.take().size();
    for (std::thread& writer : writers) writer.join();
    EXPECT_EQ(taken + log.take().size(), 2000U);
}

}  // namespace
}  // namespace mc
