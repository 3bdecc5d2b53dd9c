// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>

#include "core/ids.hpp"
#include "core/status.hpp"
#include "transport/event_loop.hpp"

namespace mc {

// The first bytes on every TCP connection say what it is: one port carries control connections and
// lanes.
struct Preamble {
    enum class Kind : std::uint8_t { control = 1, lane = 2 };
    Kind kind = Kind::control;
    Token token;  // lane: the acceptor's link token, which names the session

    static constexpr std::size_t kBytes = 24;
};

void encode(const Preamble& preamble, std::span<std::uint8_t, Preamble::kBytes> out);
Result<Preamble> decode_preamble(std::span<const std::uint8_t, Preamble::kBytes> in);

// Sends the preamble on a fresh connection, whose socket buffer always has room for it.
Status send_preamble(int socket, const Preamble& preamble);

}  // namespace mc
