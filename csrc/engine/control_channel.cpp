// SPDX-License-Identifier: Apache-2.0
#include "engine/control_channel.hpp"

#include <sys/epoll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <string>
#include <utility>

namespace mc {

namespace {

// A same-host socket keeps the boundaries of what was written at once and drops what the reader has
// no room for, so that nothing longer is ever written.
constexpr std::size_t kReadBytes = 64U << 10;
// What may wait for a peer that does not read. A live peer always reads; a frozen one is declared
// lost long before this fills.
constexpr std::size_t kMaxUnsentBytes = 256U << 20;

}  // namespace

ControlChannel::ControlChannel(EventLoop& loop, FileDescriptor socket, Handlers handlers)
    : loop_(loop), socket_(std::move(socket)), handlers_(std::move(handlers)) {}

ControlChannel::~ControlChannel() { close(); }

Status ControlChannel::start() { return watch(socket_.get(), EPOLLIN); }

Status ControlChannel::watch(int socket, std::uint32_t events) {
    return loop_.watch(socket, events, [weak = weak_from_this(), socket](std::uint32_t happened) {
        if (const auto self = weak.lock()) self->on_events(socket, happened);
    });
}

void ControlChannel::send(const Message& message) {
    if (!socket_) return;
    encode(message, out_);
    if (!flush_posted_ && !awaiting_room_) post_flush();
}

void ControlChannel::post_flush() {
    flush_posted_ = true;
    // Twice, so that what the present round of the loop and the answers to it have to say leaves in
    // one system call and wakes the peer once.
    loop_.post([weak = weak_from_this()] {
        if (const auto self = weak.lock()) {
            self->loop_.post([weak] {
                const auto still = weak.lock();
                if (!still || !still->flush_posted_) return;
                still->flush_posted_ = false;
                still->flush();
            });
        }
    });
}

void ControlChannel::move_to(FileDescriptor socket) {
    if (!socket_ || old_socket_) return;
    const Bytes moved(sizeof(std::uint32_t), 0);
    out_.insert(out_.end(), moved.begin(), moved.end());
    // A handful of messages at most have gone over this socket; its buffer takes them.
    flush();
    if (!socket_) return;
    if (!out_.empty())
        return fail(Status(Code::peer_lost, "the peer does not read its control connection"));
    old_socket_ = std::exchange(socket_, std::move(socket));
    if (const Status watched = watch(socket_.get(), watched_events()); !watched) fail(watched);
}

std::uint32_t ControlChannel::watched_events() const {
    // What the peer has yet to say over the old socket comes first.
    const bool waits_for_old = old_socket_ && !peer_moved_;
    return (waits_for_old ? 0U : static_cast<std::uint32_t>(EPOLLIN)) |
           (awaiting_room_ ? static_cast<std::uint32_t>(EPOLLOUT) : 0U);
}

void ControlChannel::close() {
    if (!socket_) return;
    (void)send_what_fits();
    for (FileDescriptor* socket : {&socket_, &old_socket_}) {
        if (*socket) loop_.unwatch(socket->get());
        socket->reset();
    }
    handlers_ = {};
}

void ControlChannel::on_events(int socket, std::uint32_t events) {
    const auto self = shared_from_this();  // a handler may drop the last other reference
    if ((events & EPOLLOUT) != 0) flush();
    if (socket_ && (events & (EPOLLIN | EPOLLHUP | EPOLLERR | EPOLLRDHUP)) != 0) read(socket);
}

void ControlChannel::read(int socket) {
    if (in_.size() - in_used_ < kReadBytes) in_.resize(in_used_ + kReadBytes);
    const ssize_t count =
        ::recv(socket, in_.data() + in_used_, in_.size() - in_used_, MSG_DONTWAIT);
    if (count > 0) {
        const bool left_behind = peer_moved_ && (!old_socket_ || socket == old_socket_.get());
        if (left_behind)
            return fail(Status(Code::protocol, "bytes on a connection after its last frame"));
        in_used_ += static_cast<std::size_t>(count);
        parse();
    } else if (count == 0) {
        fail(Status(Code::peer_lost, "the peer closed the connection"));
    } else if (errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR) {
        fail(errno_status("control connection", errno));
    }
}

void ControlChannel::parse() {
    std::size_t at = 0;
    while (socket_) {
        const std::span<const std::uint8_t> rest(in_.data() + at, in_used_ - at);
        const auto length = frame_length(rest);
        if (!length) return fail(length.status());
        if (!*length || rest.size() < sizeof(std::uint32_t) + **length) {
            if (*length && in_.size() < at + sizeof(std::uint32_t) + **length)
                in_.resize(at + sizeof(std::uint32_t) + **length);
            break;
        }
        at += sizeof(std::uint32_t) + **length;
        if (**length == 0) {
            if (std::exchange(peer_moved_, true) || at != in_used_)
                return fail(Status(Code::protocol, "an empty frame that is not the last"));
            in_used_ = 0;
            if (old_socket_) (void)loop_.change(socket_.get(), watched_events());
            return;
        }
        auto message = decode(rest.subspan(sizeof(std::uint32_t), **length));
        if (!message) return fail(message.status());
        if (*message) handlers_.message(std::move(**message));
    }
    if (at > 0) {
        std::memmove(in_.data(), in_.data() + at, in_used_ - at);
        in_used_ -= at;
    }
}

Status ControlChannel::send_what_fits() {
    while (out_sent_ < out_.size()) {
        const std::size_t length = std::min(out_.size() - out_sent_, kReadBytes);
        const ssize_t count =
            ::send(socket_.get(), out_.data() + out_sent_, length, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (count >= 0) {
            out_sent_ += static_cast<std::size_t>(count);
        } else if (errno == EAGAIN || errno == EWOULDBLOCK) {
            break;
        } else if (errno != EINTR) {
            return errno_status("control connection", errno);
        }
    }
    return {};
}

void ControlChannel::flush() {
    if (!socket_) return;
    if (const Status sent = send_what_fits(); !sent) return fail(sent);
    const bool done = out_sent_ == out_.size();
    if (done) {
        out_.clear();
        out_sent_ = 0;
    } else if (out_.size() - out_sent_ > kMaxUnsentBytes) {
        return fail(Status(Code::peer_lost, "the peer does not read its control connection"));
    }
    if (done == awaiting_room_) {
        awaiting_room_ = !done;
        (void)loop_.change(socket_.get(), watched_events());
    }
}

void ControlChannel::fail(const Status& reason) {
    const auto failed = std::move(handlers_.failed);
    out_.clear();
    out_sent_ = 0;
    close();
    if (failed) failed(reason);
}

}  // namespace mc
