// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <string>

namespace mc {

// All times are monotonic: wall clocks jump and differ between hosts, so none is ever used or sent.
using Duration = std::chrono::nanoseconds;
using Instant = std::chrono::time_point<std::chrono::steady_clock, Duration>;

inline Instant now() { return std::chrono::steady_clock::now(); }

inline double to_seconds(Duration duration) {
    return std::chrono::duration<double>(duration).count();
}

// "2 s", "0.25 s"; for messages.
inline std::string to_text(Duration duration) {
    std::string text(32, '\0');
    const int length = std::snprintf(text.data(), text.size(), "%.3g s", to_seconds(duration));
    text.resize(static_cast<std::size_t>(length));
    return text;
}

// Anything longer than a century, infinity too, is a century; NaN and what is negative are zero. So
// an Instant plus the result never overflows.
inline Duration from_seconds(double seconds) {
    constexpr double kCentury = 100.0 * 365 * 24 * 3600;
    const double bounded = seconds > 0 ? std::min(seconds, kCentury) : 0;
    return std::chrono::duration_cast<Duration>(std::chrono::duration<double>(bounded));
}

}  // namespace mc
