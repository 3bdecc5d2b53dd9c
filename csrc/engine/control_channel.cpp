// SPDX-License-Identifier: Apache-2.0
#include "engine/control_channel.hpp"

#include <sys/epoll.h>
#include <sys/socket.h>

#include <cerrno>
#include <cstring>
#include <string>
#include <utility>

namespace mc {

namespace {

constexpr std::size_t kReadBytes = 64U << 10;
// What may wait for a peer that does not read. A live peer always reads; a frozen one is declared
// lost long before this fills.
constexpr std::size_t kMaxUnsentBytes = 256U << 20;

}  // namespace

ControlChannel::ControlChannel(EventLoop& loop, FileDescriptor socket, Handlers handlers)
    : loop_(loop), socket_(std::move(socket)), handlers_(std::move(handlers)) {}

ControlChannel::~ControlChannel() { close(); }

Status ControlChannel::start() {
    return loop_.watch(socket_.get(), EPOLLIN, [weak = weak_from_this()](std::uint32_t events) {
        if (const auto self = weak.lock()) self->on_events(events);
    });
}

void ControlChannel::send(const Message& message) {
    if (!socket_) return;
    encode(message, out_);
    // Messages of one round of the loop leave in one system call.
    if (flush_posted_ || awaiting_room_) return;
    flush_posted_ = true;
    loop_.post([weak = weak_from_this()] {
        const auto self = weak.lock();
        if (!self || !self->flush_posted_) return;
        self->flush_posted_ = false;
        self->flush();
    });
}

void ControlChannel::close() {
    if (!socket_) return;
    if (!out_.empty()) (void)::send(socket_.get(), out_.data() + out_sent_, out_.size() - out_sent_, MSG_DONTWAIT | MSG_NOSIGNAL);
    loop_.unwatch(socket_.get());
    socket_.reset();
    handlers_ = {};
}

void ControlChannel::on_events(std::uint32_t events) {
    const auto self = shared_from_this();  // a handler may drop the last other reference
    if ((events & EPOLLOUT) != 0) flush();
    if (socket_ && (events & (EPOLLIN | EPOLLHUP | EPOLLERR | EPOLLRDHUP)) != 0) read();
}

void ControlChannel::read() {
    if (in_.size() - in_used_ < kReadBytes) in_.resize(in_used_ + kReadBytes);
    const ssize_t count = ::recv(socket_.get(), in_.data() + in_used_, in_.size() - in_used_, MSG_DONTWAIT);
    if (count > 0) {
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
            if (*length && in_.size() < at + sizeof(std::uint32_t) + **length) in_.resize(at + sizeof(std::uint32_t) + **length);
            break;
        }
        auto message = decode(rest.subspan(sizeof(std::uint32_t), **length));
        if (!message) return fail(message.status());
        at += sizeof(std::uint32_t) + **length;
        if (*message) handlers_.message(std::move(**message));
    }
    if (at > 0) {
        std::memmove(in_.data(), in_.data() + at, in_used_ - at);
        in_used_ -= at;
    }
}

void ControlChannel::flush() {
    while (socket_ && out_sent_ < out_.size()) {
        const ssize_t count = ::send(socket_.get(), out_.data() + out_sent_, out_.size() - out_sent_, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (count >= 0) {
            out_sent_ += static_cast<std::size_t>(count);
        } else if (errno == EAGAIN || errno == EWOULDBLOCK) {
            break;
        } else if (errno != EINTR) {
            return fail(errno_status("control connection", errno));
        }
    }
    if (!socket_) return;
    const bool done = out_sent_ == out_.size();
    if (done) {
        out_.clear();
        out_sent_ = 0;
    } else if (out_.size() - out_sent_ > kMaxUnsentBytes) {
        return fail(Status(Code::peer_lost, "the peer does not read its control connection"));
    }
    if (done == awaiting_room_) {
        awaiting_room_ = !done;
        (void)loop_.change(socket_.get(), done ? EPOLLIN : EPOLLIN | EPOLLOUT);
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
