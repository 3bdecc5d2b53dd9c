// SPDX-License-Identifier: Apache-2.0
#include "transport/tcp/tcp_lane.hpp"

#include <sys/epoll.h>

#include <utility>

namespace mc {

TcpLane::TcpLane(EventLoop& loop, FileDescriptor socket, Sinks& sinks, OnFailure on_failure,
                 Log& log)
    : PushPath(loop, sinks, std::move(on_failure), log),
      socket_(std::move(socket)),
      sender_(queue_, [this](PushQueue::Finished job,
                             Status status) { finish(std::move(job), std::move(status)); }),
      receiver_(arrival_) {
    schedule();  // looks for what came before the socket was watched, and watches it
}

TcpLane::~TcpLane() { close(Status(Code::aborted, "the TCP lane was taken down")); }

Status TcpLane::advance() {
    MC_RETURN_IF_ERROR(receiver_.receive(socket_.get(), kStepBytes));
    Result<TcpSender::Outcome> outcome = sender_.send(socket_.get(), kStepBytes);
    if (!outcome) return outcome.status();
    if (*outcome == TcpSender::Outcome::more) schedule();
    const bool blocked = *outcome == TcpSender::Outcome::blocked;
    const std::uint32_t events = EPOLLIN | (blocked ? std::uint32_t{EPOLLOUT} : 0U);
    if (events == watched_) return {};
    const Status status =
        watched_ == 0 ? loop_.watch(socket_.get(), events, [this](std::uint32_t) { step(); })
                      : loop_.change(socket_.get(), events);
    watched_ = events;
    return status;
}

void TcpLane::release() {
    if (watched_ != 0) loop_.unwatch(socket_.get());
    socket_.reset();
    sender_.abandon(Status(Code::peer_lost, "the TCP lane was closed before its bytes were sent"));
}

}  // namespace mc
