// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/log.hpp"
#include "engine/loops.hpp"
#include "engine/options.hpp"
#include "engine/sinks.hpp"
#include "transport/path.hpp"
#include "transport/samehost/link.hpp"

namespace mc {

// A path that lives in an event loop: made, used and destroyed in that loop's thread, and given
// work from the control thread. Copies share the path.
class PathHandle {
  public:
    using Make = std::function<std::unique_ptr<Path>(EventLoop&)>;

    PathHandle() = default;
    // `make` runs in the loop's thread, before any work that is given later. What the path refers
    // to and `keeps` owns lives as long as the path.
    PathHandle(EventLoop& loop, PathKind kind, Make make,
               std::shared_ptr<const void> keeps = nullptr);

    explicit operator bool() const { return cell_ != nullptr; }
    bool operator==(const PathHandle& other) const { return cell_ == other.cell_; }
    [[nodiscard]] PathKind kind() const { return cell_->kind; }
    // Bytes given and not yet reported done; for spreading load.
    [[nodiscard]] std::uint64_t outstanding() const {
        return cell_->outstanding.load(std::memory_order_relaxed);
    }

    void push(Push job) const;
    void pull(Pull job) const;
    void end(GrantId grant, std::uint32_t epoch) const;
    void close(const Status& reason) const;

  private:
    struct Cell {
        Cell(EventLoop& where, PathKind what) : loop(where), kind(what) {}
        ~Cell();
        Cell(const Cell&) = delete;
        Cell& operator=(const Cell&) = delete;

        EventLoop& loop;
        const PathKind kind;
        std::atomic<std::uint64_t> outstanding{0};
        std::shared_ptr<const void> keeps;
        std::unique_ptr<Path> path;  // touched in the loop's thread only
    };
    // At once in the path's own thread, else posted there.
    template <typename Work>
    void run(Work work) const;

    std::shared_ptr<Cell> cell_;
};

// What links two engines besides their control connection, as found by the side that connected.
struct LinkOffer {
    std::vector<SameHostLink> same_host;  // none, or one for small and one for large transfers
    std::vector<FileDescriptor> tcp_lanes;
    std::vector<std::string> notes;  // why better paths are not used
    Status failure;                  // why there is no link at all
};

// Tries the allowed kinds of links in order of cost; blocks.
struct LinkTarget {
    std::string address;  // "host:port"
    std::string boot_id;
    std::string same_host_name;
    Token token;
    std::uint8_t paths = 0xff;       // that the peer allows
    std::optional<unsigned> node{};  // NUMA node for what is shared with the peer
};
LinkOffer connect_links(const EngineOptions& options, const LinkTarget& target, Instant deadline);

// The paths to one peer, and the choice among them. Control thread only.
class Links {
  public:
    struct Context {
        const EngineOptions& options;
        EventLoop& control;
        Loops& io;
        Loops& copy;
        Log& log;
    };
    using OnFailure = std::function<void(Status)>;  // a path broke, and with it the session

    Links(Context context, std::shared_ptr<SessionSinks> sinks, OnFailure on_failure);
    ~Links();

    // For the first link also returns a socket to which control messages can move; else none.
    Result<FileDescriptor> add_same_host(SameHostLink link);
    Status add_lane(FileDescriptor socket);
    // Only what both sides allow is used.
    void restrict_to(std::uint8_t peer_paths) { peer_paths_ = peer_paths; }
    void close(const Status& reason);

    // How a shipment goes. `wait`: no path for it is there yet.
    // `inline_data`: in the control message itself.
    enum class Route : std::uint8_t { wait, pull, inline_data, push };
    [[nodiscard]] Route route(std::uint64_t bytes, std::uint64_t mean_segment,
                              bool receiver_pulls) const;
    // Push paths for a shipment of so many bytes, least loaded first; several share large ones.
    [[nodiscard]] std::vector<PathHandle> push_paths(std::uint64_t bytes) const;
    [[nodiscard]] PathHandle pull_path(std::uint64_t bytes) const;

    [[nodiscard]] bool can_pull() const { return static_cast<bool>(pull_small_); }
    [[nodiscard]] std::optional<PathKind> push_kind() const;  // by which pushed bytes come and go
    [[nodiscard]] PathKind inline_kind() const {
        return uses_ring() ? PathKind::shm : PathKind::tcp;
    }
    [[nodiscard]] PathKind pull_kind() const {
        return same_process_ ? PathKind::local : PathKind::cma;
    }
    [[nodiscard]] std::string describe() const;  // "cma and shm", "tcp (4 lanes)"

  private:
    Context context_;
    std::shared_ptr<SessionSinks> sinks_;
    OnFailure on_failure_;
    std::vector<PathHandle> lanes_;
    // Small transfers are served by the control thread itself, which saves waking another; large
    // ones by a copy thread, so that they do not hold up control messages.
    PathHandle ring_small_, ring_large_, pull_small_, pull_large_;
    [[nodiscard]] PathHandle::Make wrapped(PathHandle::Make make) const;
    [[nodiscard]] bool allows(PathKind kind) const;
    [[nodiscard]] bool uses_ring() const { return same_host_ && allows(PathKind::shm); }

    std::uint8_t peer_paths_ = 0xff;
    bool same_host_ = false;
    bool same_process_ = false;
};

}  // namespace mc
