// SPDX-License-Identifier: Apache-2.0
#include "transport/tcp/socket.hpp"

#include <arpa/inet.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <chrono>
#include <memory>
#include <utility>

namespace mc {
namespace {

constexpr int kBacklog = 512;

using AddressList = std::unique_ptr<addrinfo, decltype(&::freeaddrinfo)>;

Result<AddressList> resolve(const HostPort& address, int flags) {
    addrinfo hints{};
    hints.ai_family = AF_UNSPEC;
    hints.ai_socktype = SOCK_STREAM;
    hints.ai_flags = flags | AI_NUMERICSERV;
    addrinfo* found = nullptr;
    const char* host = address.host.empty() ? nullptr : address.host.c_str();
    const int error = ::getaddrinfo(host, std::to_string(address.port).c_str(), &hints, &found);
    if (error != 0) {
        return Status(Code::unreachable,
                      "cannot resolve '" + address.host + "': " + ::gai_strerror(error));
    }
    return AddressList(found, &::freeaddrinfo);
}

FileDescriptor open_socket(const addrinfo& info) {
    return FileDescriptor(::socket(info.ai_family, info.ai_socktype | SOCK_NONBLOCK | SOCK_CLOEXEC,
                                   info.ai_protocol));
}

void set_option(int socket, int level, int option, int value) {
    // Each only makes a stream better; without it the stream works.
    ::setsockopt(socket, level, option, &value, sizeof(value));
}

void set_stream_options(int socket) {
    set_option(socket, IPPROTO_TCP, TCP_NODELAY, 1);
    // Finds dead hosts under connections that have nothing to say; busy ones have the session's
    // ping.
    set_option(socket, SOL_SOCKET, SO_KEEPALIVE, 1);
    set_option(socket, IPPROTO_TCP, TCP_KEEPIDLE, 30);
    set_option(socket, IPPROTO_TCP, TCP_KEEPINTVL, 10);
    set_option(socket, IPPROTO_TCP, TCP_KEEPCNT, 3);
}

// 0 when connected, else an errno value.
int finish_connecting(int socket, Instant deadline) {
    for (;;) {
        const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - now()).count();
        if (left <= 0) return ETIMEDOUT;
        pollfd waiting{socket, POLLOUT, 0};
        const int ready =
            ::poll(&waiting, 1, static_cast<int>(std::min<std::int64_t>(left, 60'000)));
        if (ready < 0 && errno != EINTR) return errno;
        if (ready <= 0) continue;
        int error = 0;
        socklen_t length = sizeof(error);
        if (::getsockopt(socket, SOL_SOCKET, SO_ERROR, &error, &length) != 0) return errno;
        return error;
    }
}

Result<HostPort> host_port(const sockaddr_storage& storage, socklen_t length) {
    char host[NI_MAXHOST];
    char port[NI_MAXSERV];
    const int error =
        ::getnameinfo(reinterpret_cast<const sockaddr*>(&storage), length, host, sizeof(host), port,
                      sizeof(port), NI_NUMERICHOST | NI_NUMERICSERV);
    if (error != 0) {
        return Status(Code::internal, std::string("not an address: ") + ::gai_strerror(error));
    }
    std::string_view name = host;
    // A dual-stack listener sees IPv4 peers in this form.
    if (name.starts_with("::ffff:") && name.find('.') != name.npos) name.remove_prefix(7);
    return HostPort{std::string(name), static_cast<std::uint16_t>(std::stoul(port))};
}

}  // namespace

std::string HostPort::text() const {
    const bool brackets = host.find(':') != std::string::npos;
    std::string result;
    if (brackets) result += '[';
    result += host;
    if (brackets) result += ']';
    return result + ':' + std::to_string(port);
}

Result<HostPort> parse_host_port(std::string_view text) {
    std::string complaint = "'";
    complaint.append(text).append(
        "' is not an address: expected host:port, or [host]:port for IPv6");
    const Status wrong(Code::invalid_argument, std::move(complaint));
    const std::size_t colon = text.rfind(':');
    if (colon == text.npos) return wrong;
    std::string_view host = text.substr(0, colon);
    const std::string_view digits = text.substr(colon + 1);
    if (host.starts_with('[') && host.ends_with(']')) {
        host = host.substr(1, host.size() - 2);
    } else if (host.find(':') != host.npos) {
        return wrong;
    }
    HostPort result{std::string(host), 0};
    const auto [end, error] =
        std::from_chars(digits.data(), digits.data() + digits.size(), result.port);
    if (host.empty() || error != std::errc() || end != digits.data() + digits.size()) return wrong;
    return result;
}

Result<FileDescriptor> listen_tcp(const HostPort& address) {
    Result<AddressList> found = resolve(address, AI_PASSIVE);
    if (!found) return found.status().with_context("cannot listen");
    int error = 0;
    for (const addrinfo* info = found->get(); info != nullptr; info = info->ai_next) {
        FileDescriptor socket = open_socket(*info);
        if (!socket) {
            error = errno;
            continue;
        }
        // A restarted engine takes its port at once; two live listeners still exclude each other.
        set_option(socket.get(), SOL_SOCKET, SO_REUSEADDR, 1);
        if (info->ai_family == AF_INET6) set_option(socket.get(), IPPROTO_IPV6, IPV6_V6ONLY, 0);
        if (::bind(socket.get(), info->ai_addr, info->ai_addrlen) == 0 &&
            ::listen(socket.get(), kBacklog) == 0) {
            return socket;
        }
        error = errno;
    }
    const Status status = errno_status("cannot listen on " + address.text(), error);
    if (error != EADDRINUSE) return status;
    return Status(status.code(), status.message() + " (choose another port, or 0 for a free one)");
}

Result<FileDescriptor> accept_tcp(int listener) {
    for (;;) {
        FileDescriptor socket(::accept4(listener, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
        if (socket) {
            set_stream_options(socket.get());
            return socket;
        }
        if (errno == EAGAIN || errno == EWOULDBLOCK) return FileDescriptor();
        // The connection went away while it waited; the next one may be fine.
        if (errno != EINTR && errno != ECONNABORTED) {
            return errno_status("cannot accept a connection", errno);
        }
    }
}

Result<FileDescriptor> connect_tcp(const HostPort& address, Instant deadline) {
    Result<AddressList> found = resolve(address, 0);
    if (!found) return found.status();
    int error = EHOSTUNREACH;
    for (const addrinfo* info = found->get(); info != nullptr; info = info->ai_next) {
        FileDescriptor socket = open_socket(*info);
        if (!socket) {
            error = errno;
            continue;
        }
        set_stream_options(socket.get());
        error = ::connect(socket.get(), info->ai_addr, info->ai_addrlen) == 0 ? 0 : errno;
        if (error == EINPROGRESS || error == EINTR)
            error = finish_connecting(socket.get(), deadline);
        if (error == 0) return socket;
    }
    return errno_status("cannot connect to " + address.text(), error);
}

Result<HostPort> local_address(int socket) {
    sockaddr_storage storage{};
    socklen_t length = sizeof(storage);
    if (::getsockname(socket, reinterpret_cast<sockaddr*>(&storage), &length) != 0) {
        return errno_status("cannot read a socket's address", errno);
    }
    return host_port(storage, length);
}

Result<HostPort> peer_address(int socket) {
    sockaddr_storage storage{};
    socklen_t length = sizeof(storage);
    if (::getpeername(socket, reinterpret_cast<sockaddr*>(&storage), &length) != 0) {
        return errno_status("cannot read a peer's address", errno);
    }
    return host_port(storage, length);
}

bool is_loopback(std::string_view host) {
    const std::string name(host);
    in_addr four{};
    if (::inet_pton(AF_INET, name.c_str(), &four) == 1) return (ntohl(four.s_addr) >> 24) == 127;
    in6_addr six{};
    return ::inet_pton(AF_INET6, name.c_str(), &six) == 1 && IN6_IS_ADDR_LOOPBACK(&six) != 0;
}

}  // namespace mc
