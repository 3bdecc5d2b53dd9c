// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string_view>

#include "core/ids.hpp"
#include "core/status.hpp"
#include "layout/copy_plan.hpp"
#include "transport/hold.hpp"

namespace mc {

enum class PathKind : std::uint8_t { local, shm, cma, cuda_ipc, rdma, tcp };
inline constexpr std::size_t kPathKinds = 6;
std::string_view to_string(PathKind kind);

// Which bytes of which transfer: canonical bytes [offset, offset + length) of a slice, which is the
// tokens [first_token, first_token + tokens) of one part. Batches carry it on the wire, in place of
// a header for each span.
struct Piece {
    GrantId grant;
    std::uint32_t epoch = 0;
    std::uint16_t part = 0;
    std::uint32_t first_token = 0;
    std::uint32_t tokens = 0;
    std::uint64_t offset = 0;
    std::uint64_t length = 0;
};

// What a finished job moved and how.
struct Moved {
    std::uint64_t bytes = 0;
    std::uint64_t spans = 0;  // segments gathered or scattered here, or spans read
};

// The sender's side of a push: gather the piece's bytes from `source` and send them. The path
// may cut it into batches. `done` is called exactly once, from the path's thread, when no byte of
// the pages will be read any more for this job: ok means that all were handed to the network or
// ring in this epoch.
struct Push {
    Piece piece;
    std::shared_ptr<const Slice> source;  // the whole slice; the piece says which bytes of it
    std::shared_ptr<Hold> hold;           // of the source pages
    std::function<void(Status, Moved)> done;
};

// The receiver's side of a pull: copy from the peer's memory to ours. `guard` is the address of the
// sender's Guard, which must hold `expected` after the last byte was read.
struct Pull {
    Piece piece;
    std::shared_ptr<const Slice> source;       // addresses in the peer
    std::shared_ptr<const Slice> destination;  // addresses here
    std::shared_ptr<Hold> hold;                // of the destination pages
    std::uint64_t guard = 0;
    std::uint64_t expected = 0;
    std::function<void(Status, Moved)> done;
};

// Where arriving batches go. One for each grant; made by the engine. Called from path threads.
class Sink {
  public:
    virtual ~Sink() = default;
    // The destination of a slice, or why the peer may not send it. The path keeps the result while
    // batches of the same slice follow each other.
    virtual Result<std::shared_ptr<const Slice>> slice(std::uint16_t part, TokenRange tokens) = 0;
    virtual Hold& hold() = 0;
    // The piece's bytes lie in place. Exactly once for each batch.
    virtual void placed(const Piece& piece, Moved moved) = 0;
};

// Finds sinks, and hears of the ends of transfers. Called from path threads; thread-safe.
class Sinks {
  public:
    virtual ~Sinks() = default;
    // Null when the grant is not, or no longer, known: the path then reads and drops the bytes.
    virtual std::shared_ptr<Sink> find(GrantId grant) = 0;
    // The in-band end of a transfer on one lane: all its batches on this lane have been placed or
    // dropped. `bytes` is what the sender sent on this lane in this epoch.
    virtual void ended(GrantId grant, std::uint32_t epoch, std::uint64_t bytes) = 0;
};

// One way to move bytes between this engine and one peer. A path belongs to one EventLoop and is
// used only from its thread, but for the members marked thread-safe. Push paths (shm, tcp) carry
// batches both ways; pull paths (local, cma) read the peer's memory; both report progress through
// the jobs' callbacks. When a path fails, every job it still has fails with the reason, and
// `on_failure` (given at construction) is called once.
class Path {
  public:
    virtual ~Path() = default;
    [[nodiscard]] virtual PathKind kind() const = 0;

    virtual void push(Push job) = 0;  // push paths; others fail the job with `unsupported`
    virtual void pull(Pull job) = 0;  // pull paths; others fail the job with `unsupported`
    // Push paths: the in-band end of a transfer, after all its jobs submitted here so far.
    virtual void end(GrantId grant, std::uint32_t epoch) = 0;

    // Bytes accepted and not yet handed over; for spreading load. Thread-safe.
    [[nodiscard]] virtual std::uint64_t outstanding() const = 0;
    // Drops what is queued (jobs fail with `reason`), closes descriptors. Idempotent.
    virtual void close(Status reason) = 0;
};

}  // namespace mc
