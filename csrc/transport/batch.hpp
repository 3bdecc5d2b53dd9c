// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include "core/ids.hpp"
#include "core/status.hpp"
#include "transport/path.hpp"

namespace mc {

// What stands before every batch on a TCP lane and in a ring: which bytes of which transfer follow.
// On the wire: u32 magic, u16 kind, u16 part, u64 grant, u32 epoch, u32 first token, u32 tokens,
// u32 length, u64 offset; all little-endian.
struct BatchHeader {
    enum class Kind : std::uint16_t { batch = 1, end = 2 };

    static constexpr std::size_t kBytes = 40;
    using Wire = std::array<std::uint8_t, kBytes>;

    Kind kind = Kind::batch;
    std::uint16_t part = 0;
    GrantId grant;
    std::uint32_t epoch = 0;
    std::uint32_t first_token = 0;
    std::uint32_t tokens = 0;
    std::uint32_t length = 0;  // bytes that follow; 0 for an end
    std::uint64_t offset = 0;  // of the first byte in the slice; for an end, all bytes sent

    [[nodiscard]] Piece piece() const {
        return {grant, epoch, part, first_token, tokens, offset, length};
    }
    bool operator==(const BatchHeader&) const = default;
};

// Long enough that a header costs nothing, short enough that a small transfer does not wait long
// behind a large one.
inline constexpr std::uint32_t kMaxBatchBytes = 1U << 20;

void encode(const BatchHeader& header, std::uint8_t* out);  // writes BatchHeader::kBytes bytes

// Reads a header that nobody vouches for; `protocol` when it cannot be one.
Result<BatchHeader> decode_batch_header(std::span<const std::uint8_t, BatchHeader::kBytes> bytes);

}  // namespace mc
