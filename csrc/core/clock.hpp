// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>

namespace mc {

// All times are monotonic: wall clocks jump and differ between hosts, so none is ever used or sent.
using Duration = std::chrono::nanoseconds;
using Instant = std::chrono::time_point<std::chrono::steady_clock, Duration>;

inline Instant now() { return std::chrono::steady_clock::now(); }

inline double to_seconds(Duration duration) {
    return std::chrono::duration<double>(duration).count();
}
inline Duration from_seconds(double seconds) {
    return std::chrono::duration_cast<Duration>(std::chrono::duration<double>(seconds));
}

}  // namespace mc
