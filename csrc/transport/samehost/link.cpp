// SPDX-License-Identifier: Apache-2.0
#include "transport/samehost/link.hpp"

#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/time.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <fstream>
#include <utility>
#include <vector>

#include "transport/samehost/handshake.hpp"

namespace mc {
namespace {

using samehost::Reply;
using samehost::Request;
using samehost::Verdict;

// Makes each blocking call on the socket end by the deadline; the handshake has only three.
Status limit_time(int socket, Instant deadline) {
    const auto left = std::chrono::ceil<std::chrono::microseconds>(deadline - now()).count();
    if (left <= 0) return {Code::timeout, "no time left for the same-host handshake"};
    const timeval limit{left / 1'000'000, static_cast<suseconds_t>(left % 1'000'000)};
    if (::setsockopt(socket, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit)) != 0 ||
        ::setsockopt(socket, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit)) != 0) {
        return errno_status("cannot limit the time of the same-host handshake", errno);
    }
    return {};
}

Result<FileDescriptor> connect_socket(const std::string& name, Instant deadline) {
    Result<samehost::Address> address = samehost::socket_address(name);
    if (!address) return address.status();
    FileDescriptor socket(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
    if (!socket) return errno_status("cannot make a Unix socket", errno);
    MC_RETURN_IF_ERROR(limit_time(socket.get(), deadline));
    if (::connect(socket.get(), reinterpret_cast<const sockaddr*>(address->storage.data()),
                  address->length) != 0) {
        const int error = errno;
        return Status(Code::unreachable,
                      errno_status("cannot reach the Unix socket " + name, error).message());
    }
    return socket;
}

Status refusal(Verdict verdict) {
    if (verdict == Verdict::token_unknown) {
        return {Code::authentication_failed, "the peer does not know the session's token"};
    }
    return {Code::unsupported, "the peer cannot map the rings"};
}

}  // namespace

const std::string& boot_id() {
    // Read once: without a free descriptor it could not be, and this host would seem another one.
    static const std::string id = [] {
        std::ifstream file("/proc/sys/kernel/random/boot_id");
        std::string text;
        std::getline(file, text);
        return text;
    }();
    return id;
}

Result<SameHostLink> connect_same_host(const std::string& name, const Token& token,
                                       std::size_t ring_bytes, Instant deadline,
                                       std::optional<unsigned> node) {
    Result<FileDescriptor> socket = connect_socket(name, deadline);
    if (!socket) return socket.status();
    Result<std::unique_ptr<RingMemory>> rings = RingMemory::create(ring_bytes, node);
    if (!rings) return rings.status();

    SameHostLink link;
    link.socket = *std::move(socket);
    link.rings = *std::move(rings);
    link.wake_me = FileDescriptor(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    link.wake_peer = FileDescriptor(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    if (!link.wake_me || !link.wake_peer) return errno_status("cannot make an eventfd", errno);

    const Token nonce = Token::random();  // alive until the peer, having read it, has answered
    Request request;
    request.token = token;
    request.proof = {reinterpret_cast<std::uint64_t>(nonce.bytes.data()), nonce};
    const int descriptors[samehost::kDescriptors] = {link.rings->descriptor(), link.wake_peer.get(),
                                                     link.wake_me.get()};
    MC_RETURN_IF_ERROR(samehost::send_with_descriptors(
        link.socket.get(), {reinterpret_cast<const std::uint8_t*>(&request), sizeof(request)},
        descriptors));

    MC_RETURN_IF_ERROR(limit_time(link.socket.get(), deadline));
    Reply reply;
    std::vector<FileDescriptor> none;
    const Status received = samehost::receive_with_descriptors(
        link.socket.get(), {reinterpret_cast<std::uint8_t*>(&reply), sizeof(reply)}, none);
    if (!received) return received.with_context("no answer to the same-host handshake");
    if (reply.magic != samehost::kMagic) {
        return Status(Code::protocol, "the same-host peer speaks another version");
    }
    if (reply.verdict != Verdict::welcome) return refusal(reply.verdict);
    samehost::identify_peer(link, reply.proof);
    return link;
}

}  // namespace mc
