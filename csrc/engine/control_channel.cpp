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

Status ControlChannel::move_to(FileDescriptor socket) {
    if (!socket_ || old_socket_) return {};
    const Bytes moved(sizeof(std::uint32_t), 0);
    out_.insert(out_.end(), moved.begin(), moved.end());
    // A handful of messages at most have gone over this socket; its buffer takes them.
    MC_RETURN_IF_ERROR(send_what_fits());
    if (out_sent_ < out_.size())
        return {Code::peer_lost, "the peer does not read its control connection"};
    out_.clear();
    out_sent_ = 0;
    old_socket_ = std::exchange(socket_, std::move(socket));
    return watch(socket_.get(), watched_events());
}

bool ControlChannel::waits_for_old() const { return old_socket_ && !peer_moved_; }

std::uint32_t ControlChannel::watched_events() const {
    return (waits_for_old() ? 0U : static_cast<std::uint32_t>(EPOLLIN)) |
           (awaiting_room_ ? static_cast<std::uint32_t>(EPOLLOUT) : 0U);
}

void ControlChannel::close() {
    if (!socket_) return;
    (void)send_what_fits();
    for (FileDescriptor* socket : {&socket_, &old_socket_}) {
        if (*socket) loop_.unwatch(socket->get());
        socket->reset();
    }
}

void ControlChannel::hear_out() {
    const auto self = shared_from_this();
    for (const int socket : {old_socket_.get(), socket_.get()}) {
        for (bool more = socket >= 0; more && socket_;) {
            if (socket == socket_.get() && waits_for_old()) return;
            const auto received = receive(socket);
            more = received && *received;
        }
    }
}

void ControlChannel::on_events(int socket, std::uint32_t events) {
    const auto self = shared_from_this();  // a handler may drop the last other reference
    if ((events & EPOLLOUT) != 0) flush();
    if (socket_ && (events & (EPOLLIN | EPOLLHUP | EPOLLERR | EPOLLRDHUP)) != 0) read(socket);
}

void ControlChannel::read(int socket) {
    // What the peer has yet to say over the old socket comes first.
    if (socket == socket_.get() && waits_for_old()) return;
    const auto received = receive(socket);
    if (received) return;
    // The peer's last words may lie in the new connection, which it closed at the same time.
    const bool left_behind = old_socket_ && peer_moved_ && socket == old_socket_.get();
    for (bool more = left_behind; more && socket_;) {
        const auto last = receive(socket_.get());
        more = last && *last;
    }
    if (socket_) fail(received.status());
}

Result<bool> ControlChannel::receive(int socket) {
    if (in_.size() - in_used_ < kReadBytes) in_.resize(in_used_ + kReadBytes);
    const ssize_t count =
        ::recv(socket, in_.data() + in_used_, in_.size() - in_used_, MSG_DONTWAIT);
    if (count == 0) return Status(Code::peer_lost, "the peer closed the connection");
    if (count < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR)) return false;
    if (count < 0) return errno_status("control connection", errno);
    if (peer_moved_ && (!old_socket_ || socket == old_socket_.get()))
        return Status(Code::protocol, "bytes on a connection after its last frame");
    in_used_ += static_cast<std::size_t>(count);
    MC_RETURN_IF_ERROR(parse());
    return true;
}

Status ControlChannel::parse() {
    std::size_t at = 0;
    while (socket_) {
        const std::span<const std::uint8_t> rest(in_.data() + at, in_used_ - at);
        const auto length = frame_length(rest);
        if (!length) return length.status();
        if (*length && **length > kMaxGreetingBytes && !handlers_.greeted()) {
            return {Code::protocol, "a frame of " + std::to_string(**length) +
                                        " bytes, of a peer that has not greeted"};
        }
        // Room is made as bytes come, and not because a peer says that many will.
        if (!*length || rest.size() < sizeof(std::uint32_t) + **length) break;
        at += sizeof(std::uint32_t) + **length;
        if (**length == 0) {
            if (std::exchange(peer_moved_, true) || at != in_used_)
                return {Code::protocol, "an empty frame that is not the last"};
            in_used_ = 0;
            return old_socket_ ? loop_.change(socket_.get(), watched_events()) : Status();
        }
        auto message = decode(rest.subspan(sizeof(std::uint32_t), **length));
        if (!message) return message.status();
        if (*message) handlers_.message(std::move(**message));
    }
    if (at > 0) {
        std::memmove(in_.data(), in_.data() + at, in_used_ - at);
        in_used_ -= at;
    }
    return {};
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
    // The owner first: what it says about a malformed message still leaves.
    const auto failed = std::exchange(handlers_.failed, nullptr);
    if (failed) failed(reason);
    close();
}

}  // namespace mc
