// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <memory>
#include <optional>
#include <string>

#include "core/clock.hpp"
#include "core/ids.hpp"
#include "core/status.hpp"
#include "transport/event_loop.hpp"
#include "transport/shm/ring_memory.hpp"

namespace mc {

// What two engines on one host share once the same-host handshake has succeeded.
struct SameHostLink {
    FileDescriptor socket;  // kept open: its hang-up is the peer's end
    std::unique_ptr<RingMemory> rings;
    FileDescriptor wake_me;     // eventfd, waited for here
    FileDescriptor wake_peer;   // eventfd, written here
    pid_t peer_pid = 0;         // 0: the peer lives in a pid namespace that is not seen here
    FileDescriptor pidfd;       // of the peer; empty when its memory cannot be read
    bool cma_readable = false;  // a nonce was read from the peer's memory
    std::string cma_reason;     // why not
};

// The kernel's boot id: equal for all processes of one host, containers included; "" if unreadable.
const std::string& boot_id();

// Connects to the Unix socket that SameHostServer::name() named, proves knowledge of the session's
// token, and shares new rings of `ring_bytes` each, on the NUMA node `node`. Blocks, at most until
// `deadline`. The status says which step failed; the caller then takes another path.
Result<SameHostLink> connect_same_host(const std::string& name, const Token& token,
                                       std::size_t ring_bytes, Instant deadline,
                                       std::optional<unsigned> node = {});

}  // namespace mc
