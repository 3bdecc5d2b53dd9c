// SPDX-License-Identifier: Apache-2.0
#include "core/clock.hpp"

#include <gtest/gtest.h>

#include <limits>

namespace mc {
namespace {

TEST(Clock, ConvertsSeconds) {
    EXPECT_EQ(from_seconds(1.5), std::chrono::milliseconds(1500));
    EXPECT_EQ(from_seconds(0), Duration::zero());
    EXPECT_DOUBLE_EQ(to_seconds(std::chrono::milliseconds(250)), 0.25);
}

TEST(Clock, TakesAnyNumberOfSeconds) {
    for (const double endless : {1e12, 1e300, std::numeric_limits<double>::infinity()}) {
        EXPECT_GT(now() + from_seconds(endless), now() + std::chrono::hours(24 * 365));
    }
    for (const double none : {-1.0, -1e300, -std::numeric_limits<double>::infinity(),
                              std::numeric_limits<double>::quiet_NaN()}) {
        EXPECT_EQ(from_seconds(none), Duration::zero());
    }
}

}  // namespace
}  // namespace mc
