// SPDX-License-Identifier: Apache-2.0
#include "transport/support/rig.hpp"

#include <fcntl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <utility>

#include "transport/cma/cma_path.hpp"
#include "transport/local/local_path.hpp"
#include "transport/shm/shm_lane.hpp"
#include "transport/support/links.hpp"
#include "transport/tcp/tcp_lane.hpp"

namespace mc::testing {
namespace {

// The sender's path. What it owns is made before the fork, and belongs to the sender alone.
FarSide::MakePath far_maker(PathKind kind, std::shared_ptr<FileDescriptor> socket,
                            std::shared_ptr<SameHostLink> link) {
    return [=](EventLoop& loop, Sinks& sinks) -> std::unique_ptr<Path> {
        static Log log(LogLevel::error);
        switch (kind) {
            case PathKind::tcp:
                return std::make_unique<TcpLane>(loop, std::move(*socket), sinks, nullptr, log);
            case PathKind::shm:
                return std::make_unique<ShmLane>(loop, std::move(*link), sinks, nullptr, log);
            default: return nullptr;
        }
    };
}

}  // namespace

Rig::Rig(PathKind kind, Far where, Parts parts, std::size_t ring_bytes) : kind_(kind) {
    for (const Pages::Shape& shape : parts.destinations) {
        destinations_.push_back(std::make_unique<Pages>(
            shape, static_cast<std::uint32_t>(2 * destinations_.size() + 2)));
    }
    std::shared_ptr<FileDescriptor> near_socket;
    std::shared_ptr<FileDescriptor> far_socket;
    std::shared_ptr<SameHostLink> near_link;
    std::shared_ptr<SameHostLink> far_link;
    if (kind == PathKind::tcp) {
        auto [near, far] = tcp_pair();
        near_socket = std::make_shared<FileDescriptor>(std::move(near));
        far_socket = std::make_shared<FileDescriptor>(std::move(far));
    } else if (kind == PathKind::shm) {
        auto [near, far] = link_pair(ring_bytes);
        near_link = std::make_shared<SameHostLink>(std::move(near));
        far_link = std::make_shared<SameHostLink>(std::move(far));
    }
    far_ = std::make_unique<FarSide>(where, parts, far_maker(kind, far_socket, far_link),
                                     [near_socket, near_link] {
                                         if (near_socket) near_socket->reset();
                                         if (near_link) *near_link = {};
                                     });
    // The forked sender has copies of its own; ours would keep the connection open after its end.
    if (where == Far::process) {
        if (far_socket) far_socket->reset();
        if (far_link) *far_link = {};
    }
    guard_ = far_->guard();

    if (!loop_.start("near side")) std::abort();
    const auto on_failure = [this](Status reason) {
        events_.note([&] { failures_.push_back(std::move(reason)); });
    };
    in_loop(loop_, [&] {
        switch (kind) {
            case PathKind::tcp:
                path_ = std::make_unique<TcpLane>(loop_, std::move(*near_socket), sinks_,
                                                  on_failure, log_);
                break;
            case PathKind::shm:
                path_ = std::make_unique<ShmLane>(loop_, std::move(*near_link), sinks_, on_failure,
                                                  log_);
                break;
            case PathKind::local: path_ = std::make_unique<LocalPath>(loop_, on_failure); break;
            default: {
                FileDescriptor pidfd(static_cast<int>(::syscall(SYS_pidfd_open, far_->pid(), 0)));
                path_ = std::make_unique<CmaPath>(loop_, far_->pid(), std::move(pidfd), on_failure);
            }
        }
    });
}

Rig::~Rig() {
    in_loop(loop_, [this] { path_.reset(); });
    loop_.stop();
}

std::size_t Rig::failures() {
    std::size_t count = 0;
    events_.note([&] { count = failures_.size(); });
    return count;
}

Piece Rig::piece(std::uint64_t grant, std::uint16_t part) const {
    return {GrantId{grant}, 0, part, 0, 0, 0, destinations_[part]->bytes()};
}

Piece Rig::cut(Piece piece, std::uint64_t offset, std::uint64_t length) {
    piece.offset = offset;
    piece.length = length;
    return piece;
}

std::shared_ptr<TestSink> Rig::grant(std::uint64_t id) {
    std::shared_ptr<TestSink>& sink = grants_[id];
    if (!sink) {
        std::vector<Pages*> parts;
        for (const auto& pages : destinations_) parts.push_back(pages.get());
        sink = sinks_.add(GrantId{id}, std::move(parts));
    }
    return sink;
}

void Rig::start(const Piece& piece) {
    if (!pushes()) return start_pull(piece);
    unsettled_.insert({piece.grant, piece.epoch});
    // What the test did to the pages so far comes before what the path does: by way of the other
    // process it would as well, but ThreadSanitizer cannot see that.
    in_loop(loop_, [] {});
    far_->push(piece);
}

void Rig::start_pull(const Piece& piece) {
    const std::size_t number = pulls_.size();
    events_.note([&] { pulls_.emplace_back(); });
    // The hold lives as long as its sink.
    const std::shared_ptr<TestSink> sink = grant(piece.grant.value);
    auto job = std::make_shared<Pull>(
        Pull{piece, far_->sources()[piece.part], destinations_[piece.part]->slice(),
             std::shared_ptr<Hold>(sink, &sink->hold()), guard_.address,
             guard_.expected + piece.epoch, [this, number](Status status, Moved moved) {
                 events_.note([&] {
                     pulls_[number] = JobResult{status.code(), moved, pulls_[number].has_value()};
                 });
             }});
    loop_.post([this, job] { path_->pull(std::move(*job)); });
}

std::vector<JobResult> Rig::results() {
    if (pushes()) return far_->results();
    std::vector<JobResult> all;
    const bool ended = events_.wait([&] {
        return std::all_of(pulls_.begin(), pulls_.end(), [](const auto& each) { return each; });
    });
    if (!ended) return all;
    for (const auto& each : pulls_) all.push_back(*each);
    pulls_.clear();
    return all;
}

bool Rig::settle() {
    expected_ends_ += unsettled_.size();
    for (const auto& [grant, epoch] : unsettled_) far_->end(grant, epoch);
    unsettled_.clear();
    return events_.wait([&] { return sinks_.ends.size() >= expected_ends_; });
}

bool Rig::move(const std::vector<Piece>& pieces) {
    for (const Piece& piece : pieces) start(piece);
    const std::vector<JobResult> ended = results();
    const bool settled = settle();
    return settled && ended.size() == pieces.size() &&
           std::all_of(ended.begin(), ended.end(), [](const JobResult& each) {
               return each.code == Code::ok && !each.reported_twice;
           });
}

bool Rig::wait_for_failure(Status& reason) {
    const bool failed = events_.wait([&] { return !failures_.empty(); });
    if (failed) reason = failures_.front();
    return failed;
}

}  // namespace mc::testing
