// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include "layout/slice.hpp"

namespace mc {

// A 64-bit digest of a sequence of bytes, independent of how the sequence is cut into pieces. It
// finds damage (bytes changed, swapped, lost, repeated), not forgery: it is not cryptographic.
//
// The bytes are read as little-endian 64-bit words. Word i goes to lane i mod 8 of eight lanes:
//     product = (lane xor word) * kFactor, 128 bits wide
//     lane    = lower half of product xor upper half of product
// The upper half is what carries a word's highest bits into all others; with the lower one alone,
// two flipped bits could cancel. Lane i starts as kFactor * (i + 1), modulo 2^64. The sequence is
// padded with zero bytes to whole groups of eight words; then the byte count and the eight lanes
// are folded, in this order, by the same step into one value that starts at kFactor.
class Digest {
  public:
    static constexpr std::uint64_t kFactor = 0x9e3779b97f4a7c15;  // odd; 2^64 over the golden ratio

    Digest();
    void add(std::span<const std::byte> bytes);
    [[nodiscard]] std::uint64_t value() const;

  private:
    static constexpr std::size_t kLanes = 8;
    static constexpr std::size_t kGroup = kLanes * sizeof(std::uint64_t);
    using Lanes = std::array<std::uint64_t, kLanes>;

    static void mix(Lanes& lanes, const std::byte* groups, std::size_t count);

    Lanes lanes_;
    std::array<std::byte, kGroup> partial_{};
    std::size_t filled_ = 0;  // bytes in partial_
    std::uint64_t bytes_ = 0;
};

// The digest of the bytes that the cursor would still yield, in canonical order. The memory must be
// readable by this process: host memory of its own.
std::uint64_t digest(const Cursor& cursor);

}  // namespace mc
