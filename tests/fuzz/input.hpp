// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <span>

namespace mc::fuzz {

// Reads a fuzzer's input as a sequence of choices; all of them are zero once it has been used up.
class Input {
  public:
    Input(const std::uint8_t* data, std::size_t size) : left_(data, size) {}

    [[nodiscard]] bool empty() const { return left_.empty(); }
    std::uint8_t byte() {
        if (left_.empty()) return 0;
        const std::uint8_t value = left_.front();
        left_ = left_.subspan(1);
        return value;
    }
    bool flag() { return (byte() & 1) != 0; }
    std::uint64_t below(std::uint64_t limit) { return byte() % limit; }  // limit <= 256
    // Mostly small, sometimes at a limit of some kind, sometimes anything.
    std::uint64_t number() {
        constexpr std::array<std::uint64_t, 12> kLimits{
            255,        256,        65535,      65536,     1U << 20,       INT32_MAX,
            1ULL << 31, UINT32_MAX, 1ULL << 32, INT64_MAX, UINT64_MAX - 1, UINT64_MAX};
        const std::uint8_t first = byte();
        if (first < 224) return first;
        if (first - 224U < kLimits.size()) return kLimits[first - 224U];
        std::uint64_t value = 0;
        for (int i = 0; i < 8; ++i) value = value << 8 | byte();
        return value;
    }
    std::uint32_t number32() { return static_cast<std::uint32_t>(number()); }
    // At most `count` bytes.
    std::span<const std::uint8_t> bytes(std::size_t count) {
        const auto taken = left_.first(std::min(count, left_.size()));
        left_ = left_.subspan(taken.size());
        return taken;
    }

  private:
    std::span<const std::uint8_t> left_;
};

}  // namespace mc::fuzz
