// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "engine/driver.hpp"

namespace mc {

// Pages of one pool, as callers name them.
struct PoolPages {
    std::string pool;
    std::vector<std::int32_t> pages;
    std::uint32_t first_token = 0;  // of the first page
};

struct RecvOptions {
    std::vector<std::string> senders;  // addresses
    std::string tag;
    // Wanted are the tokens [first_token, tokens); of a part that names a later first token, from
    // that one on. A part's first page is the one that holds the first token wanted of it.
    std::vector<PoolPages> parts;
    std::uint32_t first_token = 0;
    std::uint32_t tokens = 0;
    std::vector<PoolPages> rows;  // whole rows
    std::uint64_t request = 0;    // shared by all receivers of one request; 0: a number of its own
    std::uint32_t receiver_index = 0;
    std::uint32_t receiver_count = 1;
    Duration deadline{};
};

// Moves pages between this process and others. Every call checks its arguments, hands the work to
// the control thread, and returns; transfers report through poll() and wait(). Thread-safe.
class Engine {
  public:
    static Result<std::unique_ptr<Engine>> create(EngineOptions options);
    ~Engine();  // closes
    Engine(const Engine&) = delete;
    Engine& operator=(const Engine&) = delete;

    [[nodiscard]] const std::string& address() const { return driver_->address(); }
    [[nodiscard]] const InstanceId& instance() const { return instance_; }

    Status register_pool(const Pool& added);
    Status register_memory(const MemoryTable::Region& region);
    Status unregister_memory(std::uint64_t address);

    Result<std::shared_ptr<Transfer>> send(std::string tag, Duration patience);
    Status append(const Transfer& send, PoolPages pages);
    Status mark_ready(const Transfer& send, std::uint32_t tokens);
    Status rewind(Transfer& send, std::uint32_t tokens);
    Status finish(const Transfer& send, std::vector<PoolPages> final_parts);
    Status abort(const Transfer& send, std::string reason);
    Matched matched(const Transfer& send) { return completions_.matched(send); }

    Result<std::shared_ptr<Transfer>> recv(RecvOptions options);
    Status cancel(const Transfer& transfer);  // recv or read
    Result<std::shared_ptr<Transfer>> write(std::string address, std::vector<Segment> source,
                                            std::vector<Segment> destination, Duration deadline);
    Result<std::shared_ptr<Transfer>> read(std::string address, std::vector<Segment> source,
                                           std::vector<Segment> destination, Duration deadline);

    std::vector<std::shared_ptr<Transfer>> poll() { return completions_.take(); }
    std::optional<Outcome> outcome(const Transfer& transfer) {
        return completions_.outcome(transfer);
    }
    std::optional<Outcome> wait(const Transfer& transfer, Duration timeout) {
        return completions_.wait(transfer, timeout);
    }

    // For the application's authentication thread, where options name keys: waits for a proof to be
    // made or checked; nothing once the engine is closed. Each is answered with the proof made, or
    // the one that held, or with why not.
    std::optional<ProofQueue::Task> next_proof() { return driver_->proofs().next(); }
    Status answer_proof(SessionId session, const Result<Proof>& answer);

    Result<std::vector<PeerInfo>> peers();
    struct Stats {
        std::uint64_t sends = 0, recvs = 0, grants_out = 0, grants_in = 0, parked = 0;
        std::uint64_t same_host_over_tcp = 0;  // sessions so far
    };
    Result<Stats> stats();
    std::vector<LogLine> take_log() { return log_.take(); }
    void close();

  private:
    explicit Engine(EngineOptions options);

    Status usable() const;
    Status submit(EventLoop::Task task);  // to the control thread; fails once that has ended
    template <typename Answer>
    Result<Answer> ask(std::function<Answer()> question);  // in the control thread
    Status check_ids(const PoolPages& pages) const;  // the pool is known, the pages are its own
    Status check(const PoolPages& pages) const;      // and the first one begins where it says
    const Pool* pool(const std::string& name) const;
    std::shared_ptr<Transfer> make(TransferKind kind);
    Status check_recv(const RecvOptions& options) const;
    RecvRequest make_request(TransferId id, RecvOptions options) const;  // of checked options
    Status check_lists(std::span<const Segment> local, std::span<const Segment> remote) const;

    const EngineOptions options_;
    const InstanceId instance_ = Token::random();
    const int process_;
    const std::uint64_t first_request_;
    Log log_;
    Completions completions_;
    MemoryTable memory_;
    mutable std::mutex mutex_;  // guards pools_
    std::unordered_map<std::string, std::unique_ptr<const Pool>> pools_;
    std::atomic<std::uint64_t> next_id_{1};
    std::atomic<bool> closed_{false};
    std::unique_ptr<Driver> driver_;
};

}  // namespace mc
