// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <mutex>
#include <unordered_map>
#include <vector>

#include "engine/transfer.hpp"
#include "protocol/actions.hpp"
#include "transport/path.hpp"

namespace mc {

// Where the bytes of one grant go: destinations come from this engine's own pages alone, and only
// for tokens that it asked for.
class GrantSink final : public Sink {
  public:
    GrantSink(std::shared_ptr<Transfer> transfer, std::vector<SinkPart> parts);

    Result<std::shared_ptr<const Slice>> slice(std::uint16_t part, TokenRange tokens) override;
    Hold& hold() override { return *hold_; }
    void placed(const Piece& piece, Moved moved) override;

    // A few bytes that came in a control message.
    Status place(const Data& data);

    // Whether the pages hold what the sender's digests say, which must cover all that was wanted.
    Status verify(std::span<const SliceDigest> digests);

    // Which path the pushed bytes come by; for the counters.
    void set_path(PathKind path) { path_.store(path, std::memory_order_relaxed); }
    [[nodiscard]] std::shared_ptr<Hold> shared_hold() const { return hold_; }
    [[nodiscard]] const std::shared_ptr<Transfer>& transfer() const { return transfer_; }
    [[nodiscard]] std::uint32_t epoch() const { return epoch_.load(std::memory_order_relaxed); }
    // Bytes pushed in the present epoch.
    [[nodiscard]] std::uint64_t placed_bytes() const {
        return placed_.load(std::memory_order_acquire);
    }
    // Only when nothing of the old epoch is under way any more.
    void rewind(std::uint32_t epoch);

  private:
    const std::shared_ptr<Transfer> transfer_;
    const std::vector<SinkPart> parts_;
    const std::shared_ptr<Hold> hold_ = std::make_shared<Hold>();
    std::atomic<PathKind> path_{PathKind::tcp};
    std::atomic<std::uint32_t> epoch_{0};
    std::atomic<std::uint64_t> placed_{0};
};

// The sinks that one peer may fill. Each session has its own, so that a peer's batches reach the
// grants of its own session only.
class SessionSinks final : public Sinks {
  public:
    using Ended = std::function<void(GrantId, std::uint32_t epoch)>;
    explicit SessionSinks(Ended ended) : ended_(std::move(ended)) {}

    std::shared_ptr<Sink> find(GrantId grant) override { return get(grant); }
    void ended(GrantId grant, std::uint32_t epoch, std::uint64_t bytes) override;

    std::shared_ptr<GrantSink> get(GrantId grant);
    void add(GrantId grant, std::shared_ptr<GrantSink> sink);
    void remove(GrantId grant);

  private:
    const Ended ended_;
    std::mutex mutex_;
    std::unordered_map<GrantId, std::shared_ptr<GrantSink>> sinks_;
};

}  // namespace mc
