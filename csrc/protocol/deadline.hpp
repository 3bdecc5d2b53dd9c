// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstdint>

#include "core/clock.hpp"

namespace mc {

// `patience` from now on. Whoever says "for ever" gets ten years, which the clock's type can hold.
inline Instant deadline_after(Instant now, Duration patience) {
    constexpr Duration kLongest = std::chrono::hours(24 * 3650);
    return now + std::clamp(patience, Duration::zero(), kLongest);
}

// What is left until a deadline, as it travels on the wire.
inline std::uint32_t remaining_ms(Instant deadline, Instant now) {
    const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(deadline - now).count();
    return static_cast<std::uint32_t>(std::clamp<std::int64_t>(left, 0, UINT32_MAX));
}

}  // namespace mc
