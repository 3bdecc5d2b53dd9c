// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <span>

#include "bindings/baseline/segments.hpp"

// A bare ring in memory that two processes share: the sender gathers 256 KiB at a time into it, the
// receiver scatters them, and whoever finds nothing to do sleeps on a futex.
namespace mc::baseline {

// Size of the shared memory; all zero is an empty ring.
std::size_t ring_bytes();

// `memory` is the start of ring_bytes() bytes, aligned to a page. The ring must have one sender and
// one receiver, whose lists have the same number of bytes. Throws std::system_error (ETIMEDOUT)
// when the other side has not moved for 30 s.
void send_through_ring(std::byte* memory, std::span<const Segment> segments);
void receive_through_ring(std::byte* memory, std::span<const Segment> segments);

}  // namespace mc::baseline
