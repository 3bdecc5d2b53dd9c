// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "core/clock.hpp"
#include "core/status.hpp"
#include "transport/event_loop.hpp"

namespace mc {

// "host:port"; the host is a name, an IPv4 address, or an IPv6 address, in brackets in the text.
struct HostPort {
    std::string host;
    std::uint16_t port = 0;

    [[nodiscard]] std::string text() const;
    bool operator==(const HostPort&) const = default;
};
Result<HostPort> parse_host_port(std::string_view text);

// A listening, non-blocking socket. Port 0 lets the kernel choose; local_address() tells. An IPv6
// wildcard accepts IPv4 too. Resolves names, so it may block.
Result<FileDescriptor> listen_tcp(const HostPort& address);

// The next waiting connection, with the stream options below; an empty descriptor when there is
// none.
Result<FileDescriptor> accept_tcp(int listener);

// Connects to the first of the host's addresses that answers; blocks, at most until `deadline`
// (name resolution has time limits of its own). The result is non-blocking and has the stream
// options: no delay (the lanes batch by themselves), keep-alive, close-on-exec. Fails with
// `unreachable` or `timeout`; the message says what was tried.
Result<FileDescriptor> connect_tcp(const HostPort& address, Instant deadline);

// The addresses of a socket's two ends, in numbers.
Result<HostPort> local_address(int socket);
Result<HostPort> peer_address(int socket);

// Whether traffic to this numeric address stays on this host.
bool is_loopback(std::string_view host);

}  // namespace mc
