// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "core/clock.hpp"
#include "core/ids.hpp"
#include "core/status.hpp"
#include "transport/cma/guard.hpp"
#include "transport/path.hpp"

namespace mc {

enum class TransferKind : std::uint8_t { send, recv, write, read };

// How a transfer ended.
struct Outcome {
    Status status;
    std::uint64_t bytes = 0;
    std::uint64_t spans = 0;
    std::optional<PathKind> path;  // that moved most bytes; none if nothing moved
    double seconds = 0;            // from the call to the end
};

// Receivers that came for a send: their engine's address, and the first token they want (none: they
// only release the send).
using Matched = std::vector<std::pair<std::string, std::optional<std::uint32_t>>>;

// Who may read a send's pages. Shared by the thread that takes pages back and those that ship them.
class SourcePages {
  public:
    [[nodiscard]] const std::shared_ptr<Hold>& hold() const { return hold_; }
    [[nodiscard]] const Guard& guard() const { return guard_; }
    // From this call on nothing that is read counts any more. Returns the new epoch.
    std::uint32_t take_back();
    // The same for ever; `on_idle` is called once nobody reads.
    void close(std::function<void()> on_idle);

  private:
    const std::shared_ptr<Hold> hold_ = std::make_shared<Hold>();
    Guard guard_{hold_};
    std::mutex mutex_;
    std::uint32_t epoch_ = 0;
};

// What the engine's threads share about one transfer. The protocol's state is elsewhere, in the
// control thread.
struct Transfer {
    Transfer(TransferId number, TransferKind what) : id(number), kind(what), started(now()) {}

    const TransferId id;
    const TransferKind kind;
    const Instant started;

    SourcePages source;  // of a send or write

    // What has moved, by path. Bytes that were sent again count again.
    std::array<std::atomic<std::uint64_t>, kPathKinds> bytes{};
    std::atomic<std::uint64_t> spans{0};

    // Guarded by the lock of Completions.
    std::optional<Outcome> outcome;
    Matched matched;

    void count(PathKind path, Moved moved) {
        bytes[static_cast<std::size_t>(path)].fetch_add(moved.bytes, std::memory_order_relaxed);
        spans.fetch_add(moved.spans, std::memory_order_relaxed);
    }
};

// Finished transfers, for Python to fetch or to wait for. Each transfer completes exactly once.
// Thread-safe.
class Completions {
  public:
    // `busy_poll`: how long wait() looks before it sleeps.
    explicit Completions(Duration busy_poll = {}) : busy_poll_(busy_poll) {}

    void add(std::shared_ptr<Transfer> transfer, const Status& status);
    // All that ended since the last call, oldest first; never blocks.
    std::vector<std::shared_ptr<Transfer>> take();
    // Waits for the transfer to end; nothing after `timeout`. It is still returned by take().
    std::optional<Outcome> wait(const Transfer& transfer, Duration timeout);
    std::optional<Outcome> outcome(const Transfer& transfer);

    void add_match(Transfer& transfer, std::string address,
                   std::optional<std::uint32_t> first_token);
    Matched matched(const Transfer& transfer);

  private:
    const Duration busy_poll_;
    std::mutex mutex_;
    std::condition_variable added_;
    std::vector<std::shared_ptr<Transfer>> fresh_;
};

}  // namespace mc
