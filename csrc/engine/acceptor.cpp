// SPDX-License-Identifier: Apache-2.0
#include "engine/acceptor.hpp"

#include <sys/epoll.h>
#include <sys/socket.h>

#include <cerrno>
#include <string>
#include <utility>
#include <vector>

namespace mc {

Acceptor::Acceptor(EventLoop& loop, Log& log, Accepted accepted,
                   std::function<void(Instant)> wake_at)
    : loop_(loop), log_(log), accepted_(std::move(accepted)), wake_at_(std::move(wake_at)) {}

Acceptor::~Acceptor() { close(); }

Status Acceptor::listen(const HostPort& address) {
    auto listener = listen_tcp(address);
    if (!listener) return listener.status();
    listener_ = std::move(*listener);
    auto local = local_address(listener_.get());
    if (!local) return local.status();
    address_ = *local;
    return loop_.watch(listener_.get(), EPOLLIN, [this](std::uint32_t) { on_connection(); });
}

void Acceptor::on_connection() {
    while (true) {
        auto accepted = accept_tcp(listener_.get());
        if (!accepted) {
            log_.write(LogLevel::warning, "refused a connection: " + accepted.status().message());
            (void)spare_.refuse_one(listener_.get());
            return;  // if more wait, the loop calls again
        }
        if (!*accepted) return;
        if (pending_.size() >= kMaxPending) {
            // The oldest has had the longest time to speak.
            auto oldest = pending_.begin();
            for (auto it = pending_.begin(); it != pending_.end(); ++it) {
                if (it->second.since < oldest->second.since) oldest = it;
            }
            drop(oldest->first);
        }
        const int fd = accepted->get();
        Pending& pending = pending_[fd];
        pending.socket = std::move(*accepted);
        pending.since = now();
        wake_at_(pending.since + kPatience);
        if (!loop_.watch(fd, EPOLLIN, [this, fd](std::uint32_t) { on_bytes(fd); })) drop(fd);
    }
}

void Acceptor::on_bytes(int fd) {
    const auto found = pending_.find(fd);
    if (found == pending_.end()) return;
    Pending& pending = found->second;
    const ssize_t count = ::recv(fd, pending.bytes.data() + pending.received,
                                 pending.bytes.size() - pending.received, MSG_DONTWAIT);
    if (count < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (count <= 0) return drop(fd);
    pending.received += static_cast<std::size_t>(count);
    if (pending.received < pending.bytes.size()) return;
    const auto preamble = decode_preamble(pending.bytes);
    if (!preamble) {
        log_.write(LogLevel::warning, "refused " + preamble.status().message());
        return drop(fd);
    }
    FileDescriptor socket = std::move(pending.socket);
    loop_.unwatch(fd);
    pending_.erase(found);
    accepted_(std::move(socket), *preamble);
}

void Acceptor::drop(int fd) {
    loop_.unwatch(fd);
    pending_.erase(fd);
}

void Acceptor::tick(Instant at) {
    std::vector<int> late;
    for (const auto& [fd, pending] : pending_) {
        if (at >= pending.since + kPatience) {
            late.push_back(fd);
        } else {
            wake_at_(pending.since + kPatience);
        }
    }
    for (const int fd : late) drop(fd);
}

void Acceptor::close() {
    while (!pending_.empty()) drop(pending_.begin()->first);
    if (listener_) {
        loop_.unwatch(listener_.get());
        listener_.reset();
    }
}

}  // namespace mc
