// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <span>

#include "bindings/baseline/segments.hpp"

// One TCP stream without any framing, over a blocking socket: both ends know how many bytes come.
// All functions return when every byte of their segments has passed, and throw std::system_error:
// ECONNRESET when the other end closed early, ETIMEDOUT when SO_RCVTIMEO or SO_SNDTIMEO ran out.
namespace mc::baseline {

// sendmsg and readv with 1,024 vectors a call, straight from and to the segments.
void send_vectored(int socket, std::span<const Segment> segments);
void receive_vectored(int socket, std::span<const Segment> segments);

// Gathered into a buffer of 256 KiB, sent, received into another one, scattered.
void send_packed(int socket, std::span<const Segment> segments);
void receive_packed(int socket, std::span<const Segment> segments);

}  // namespace mc::baseline
