// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sys/types.h>

#include <span>

#include "bindings/baseline/segments.hpp"

namespace mc::baseline {

// One memcpy a span, on the calling thread: what the same-host paths are held against.
void copy(std::span<const Span> spans);

// Writes into process `pid` with process_vm_writev, 1,024 spans a call; destinations are addresses
// of that process. Throws std::system_error (EPERM: the kernel forbids it).
void write_process(pid_t pid, std::span<const Span> spans);

}  // namespace mc::baseline
