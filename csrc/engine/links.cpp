// SPDX-License-Identifier: Apache-2.0
#include "engine/links.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

#include "engine/preamble.hpp"
#include "transport/cma/cma_path.hpp"
#include "transport/local/local_path.hpp"
#include "transport/shm/shm_lane.hpp"
#include "transport/tcp/socket.hpp"
#include "transport/tcp/tcp_lane.hpp"

namespace mc {

namespace {

// From this size on a shipment is spread over all lanes: below, one connection moves it in less
// time than waking further threads takes.
constexpr std::uint64_t kSpreadBytes = 8U << 20;

// Up to this size bytes travel in the control message itself: a batch on a lane or ring would be
// one more wake-up on each side.
constexpr std::uint64_t kInlineBytes = 16U << 10;

}  // namespace

PathHandle::PathHandle(EventLoop& loop, PathKind kind, Make make, std::shared_ptr<const void> keeps)
    : cell_(std::make_shared<Cell>(loop, kind)) {
    cell_->keeps = std::move(keeps);
    run([make = std::move(make), &loop](Cell& cell) { cell.path = make(loop); });
}

PathHandle::Cell::~Cell() {
    if (path == nullptr || loop.in_loop_thread()) return;
    loop.post([kept = std::move(keeps), last = std::shared_ptr<Path>(std::move(path))]() mutable {
        last.reset();
    });
}

template <typename Work>
void PathHandle::run(Work work) const {
    if (cell_->loop.in_loop_thread()) {
        work(*cell_);
    } else {
        cell_->loop.post([cell = cell_, work = std::move(work)]() mutable { work(*cell); });
    }
}

namespace {

// Keeps the count of a path's outstanding bytes around a job.
template <typename Job>
Job counted(Job job, std::atomic<std::uint64_t>& outstanding) {
    outstanding.fetch_add(job.piece.length, std::memory_order_relaxed);
    job.done = [&outstanding, length = job.piece.length, done = std::move(job.done)](Status status,
                                                                                     Moved moved) {
        outstanding.fetch_sub(length, std::memory_order_relaxed);
        done(std::move(status), moved);
    };
    return job;
}

}  // namespace

void PathHandle::push(Push job) const {
    run([job = counted(std::move(job), cell_->outstanding)](Cell& cell) mutable {
        cell.path->push(std::move(job));
    });
}
void PathHandle::pull(Pull job) const {
    run([job = counted(std::move(job), cell_->outstanding)](Cell& cell) mutable {
        cell.path->pull(std::move(job));
    });
}
void PathHandle::end(GrantId grant, std::uint32_t epoch) const {
    run([grant, epoch](Cell& cell) { cell.path->end(grant, epoch); });
}
void PathHandle::close(const Status& reason) const {
    run([reason](Cell& cell) { cell.path->close(reason); });
}

LinkOffer connect_links(const EngineOptions& options, const LinkTarget& target, Instant deadline) {
    LinkOffer offer;
    const auto allows = [&](PathKind kind) {
        return options.allows(kind) && ((target.paths >> static_cast<unsigned>(kind)) & 1U) != 0;
    };
    const bool wants_same_host =
        allows(PathKind::local) || allows(PathKind::shm) || allows(PathKind::cma);
    if (wants_same_host && target.boot_id == boot_id()) {
        Status failed = target.same_host_name.empty()
                            ? Status(Code::unsupported, "the peer forbids same-host paths")
                            : Status();
        for (int i = 0; i < 2 && failed; ++i) {
            auto link = connect_same_host(target.same_host_name, target.token, options.ring_bytes,
                                          deadline, target.node);
            if (link) {
                offer.same_host.push_back(std::move(*link));
            } else if (offer.same_host.empty()) {
                failed = link.status();
            } else {
                offer.failure = link.status();
                return offer;
            }
        }
        if (failed) {
            const SameHostLink& link = offer.same_host.front();
            const bool local = allows(PathKind::local) && link.peer_pid == ::getpid();
            const bool cma = allows(PathKind::cma) && link.cma_readable;
            if (allows(PathKind::cma) && !link.cma_readable && !local) {
                offer.notes.push_back("no cma: " + link.cma_reason);
                if (options.strict) {
                    offer.failure =
                        Status(Code::unsupported,
                               "no cma: " + link.cma_reason +
                                   "; strict refuses the ring in its place (leave strict out, or "
                                   "cma out of paths=)");
                    return offer;
                }
            }
            if (local || cma || allows(PathKind::shm)) return offer;
            failed = Status(Code::unsupported,
                            "cma is the only path allowed on this host, but " + link.cma_reason);
        }
        offer.notes.push_back("no same-host path: " + failed.message());
        if (options.strict || !allows(PathKind::tcp)) {
            offer.failure = failed.with_context("the peer runs on this host");
            return offer;
        }
    }
    if (!allows(PathKind::tcp)) {
        offer.failure = Status(Code::unsupported, "none of the allowed paths reaches " +
                                                      target.address + "; add tcp to paths=");
        return offer;
    }
    const auto address = parse_host_port(target.address);
    if (!address) {
        offer.failure = address.status();
        return offer;
    }
    while (offer.tcp_lanes.size() < options.tcp_lanes) {
        auto socket = connect_tcp(*address, deadline);
        Status sent = socket ? send_preamble(socket->get(), {Preamble::Kind::lane, target.token})
                             : socket.status();
        if (!sent) {
            offer.failure = sent.with_context("lane to " + target.address);
            return offer;
        }
        offer.tcp_lanes.push_back(std::move(*socket));
    }
    return offer;
}

Links::Links(Context context, std::shared_ptr<SessionSinks> sinks, OnFailure on_failure)
    : context_(context), sinks_(std::move(sinks)), on_failure_(std::move(on_failure)) {}

Links::~Links() { close(Status(Code::aborted, "the session has ended")); }

PathHandle::Make Links::wrapped(PathHandle::Make make) const {
    const auto& wrap = context_.options.wrap_path;
    if (!wrap) return make;
    return [make = std::move(make), wrap, on_failure = on_failure_](EventLoop& where) {
        return wrap(where, make(where), on_failure);
    };
}

Status Links::add_lane(FileDescriptor socket) {
    auto loop = context_.io.next();
    if (!loop) return loop.status();
    lanes_.emplace_back(**loop, PathKind::tcp,
                        wrapped([shared = std::make_shared<FileDescriptor>(std::move(socket)),
                                 &sinks = *sinks_, on_failure = on_failure_,
                                 &log = context_.log](EventLoop& where) -> std::unique_ptr<Path> {
                            return std::make_unique<TcpLane>(where, std::move(*shared), sinks,
                                                             on_failure, log);
                        }),
                        sinks_);
    return {};
}

Result<FileDescriptor> Links::add_same_host(SameHostLink link) {
    const bool first = !same_host_;
    // The paths only watch the socket for its end.
    FileDescriptor socket(first ? ::fcntl(link.socket.get(), F_DUPFD_CLOEXEC, 0) : -1);
    same_host_ = true;
    EventLoop* loop = &context_.control;
    if (!first) {
        auto next = context_.copy.next();
        if (!next) return next.status();
        loop = *next;
    }
    Log& log = context_.log;
    PathHandle& pull = first ? pull_small_ : pull_large_;
    PathHandle& ring = first ? ring_small_ : ring_large_;
    same_process_ = link.peer_pid == ::getpid() && allows(PathKind::local);
    if (same_process_) {
        pull = PathHandle(
            *loop, PathKind::local,
            wrapped([on_failure = on_failure_](EventLoop& where) -> std::unique_ptr<Path> {
                return std::make_unique<LocalPath>(where, on_failure);
            }));
    } else if (link.cma_readable && allows(PathKind::cma)) {
        auto pidfd =
            std::make_shared<FileDescriptor>(::fcntl(link.pidfd.get(), F_DUPFD_CLOEXEC, 0));
        pull = PathHandle(
            *loop, PathKind::cma,
            wrapped([pid = link.peer_pid, pidfd,
                     on_failure = on_failure_](EventLoop& where) -> std::unique_ptr<Path> {
                return std::make_unique<CmaPath>(where, pid, std::move(*pidfd), on_failure);
            }));
    }
    ring = PathHandle(
        *loop, PathKind::shm,
        wrapped([shared = std::make_shared<SameHostLink>(std::move(link)), &sinks = *sinks_,
                 on_failure = on_failure_, &log](EventLoop& where) -> std::unique_ptr<Path> {
            return std::make_unique<ShmLane>(where, std::move(*shared), sinks, on_failure, log);
        }),
        sinks_);
    return socket;
}

bool Links::allows(PathKind kind) const {
    return context_.options.allows(kind) &&
           ((peer_paths_ >> static_cast<unsigned>(kind)) & 1U) != 0;
}

void Links::close(const Status& reason) {
    for (PathHandle* path : {&ring_small_, &ring_large_, &pull_small_, &pull_large_}) {
        if (*path) path->close(reason);
        *path = {};
    }
    for (const PathHandle& lane : lanes_) lane.close(reason);
    lanes_.clear();
}

Links::Route Links::route(std::uint64_t bytes, std::uint64_t mean_segment,
                          bool receiver_pulls) const {
    if (same_process_ && receiver_pulls) return Route::pull;
    if (uses_ring() && bytes <= kInlineBytes) return Route::inline_data;
    const bool read_by_peer = same_host_ && receiver_pulls && allows(PathKind::cma);
    if (read_by_peer && (mean_segment >= context_.options.cma_min_span || !uses_ring()))
        return Route::pull;
    if (uses_ring()) {
        const bool small = bytes <= context_.options.eager_bytes;
        return (small ? ring_small_ : ring_large_) ? Route::push : Route::wait;
    }
    if (lanes_.empty()) return Route::wait;
    return bytes <= kInlineBytes ? Route::inline_data : Route::push;
}

std::vector<PathHandle> Links::push_paths(std::uint64_t bytes) const {
    if (uses_ring()) return {bytes <= context_.options.eager_bytes ? ring_small_ : ring_large_};
    std::vector<PathHandle> chosen = lanes_;
    std::sort(chosen.begin(), chosen.end(), [](const PathHandle& left, const PathHandle& right) {
        return left.outstanding() < right.outstanding();
    });
    if (bytes < kSpreadBytes) chosen.resize(1);
    return chosen;
}

PathHandle Links::pull_path(std::uint64_t bytes) const {
    return bytes <= context_.options.eager_bytes || !pull_large_ ? pull_small_ : pull_large_;
}

std::optional<PathKind> Links::push_kind() const {
    if (uses_ring()) return PathKind::shm;
    if (!lanes_.empty()) return PathKind::tcp;
    return std::nullopt;
}

std::string Links::describe() const {
    if (same_process_) return "local";
    if (same_host_) {
        std::string text;
        if (pull_small_) text = "cma";
        if (uses_ring()) text += text.empty() ? "shm" : " and shm";
        if (!text.empty()) return text;
    }
    if (!lanes_.empty())
        return "tcp (" + std::to_string(lanes_.size()) +
               (lanes_.size() == 1 ? " lane)" : " lanes)");
    return "none yet";
}

}  // namespace mc
