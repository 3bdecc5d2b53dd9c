// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdlib>
#include <utility>

#include "transport/samehost/link.hpp"
#include "transport/tcp/socket.hpp"

namespace mc::testing {

// Both ends of a TCP connection over the loopback interface.
inline std::pair<FileDescriptor, FileDescriptor> tcp_pair() {
    auto listener = listen_tcp({"127.0.0.1", 0});
    if (!listener) std::abort();
    auto address = local_address(listener->get());
    auto client = connect_tcp(*address, now() + std::chrono::seconds(10));
    if (!client) std::abort();
    for (;;) {
        auto server = accept_tcp(listener->get());
        if (!server) std::abort();
        if (*server) return {std::move(*client), std::move(*server)};
        ::usleep(1000);
    }
}

// Both ends of a same-host link, as the handshake makes them.
inline std::pair<SameHostLink, SameHostLink> link_pair(std::size_t ring_bytes) {
    SameHostLink one;
    SameHostLink other;
    auto created = RingMemory::create(ring_bytes);
    if (!created) std::abort();
    one.rings = std::move(*created);
    auto adopted = RingMemory::adopt(FileDescriptor(::dup(one.rings->descriptor())));
    if (!adopted) std::abort();
    other.rings = std::move(*adopted);
    int sockets[2] = {-1, -1};
    if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sockets) != 0) std::abort();
    one.socket = FileDescriptor(sockets[0]);
    other.socket = FileDescriptor(sockets[1]);
    one.wake_me = FileDescriptor(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    other.wake_me = FileDescriptor(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    one.wake_peer = FileDescriptor(::dup(other.wake_me.get()));
    other.wake_peer = FileDescriptor(::dup(one.wake_me.get()));
    return {std::move(one), std::move(other)};
}

}  // namespace mc::testing
