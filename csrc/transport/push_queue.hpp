// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <unordered_map>
#include <vector>

#include "transport/batch.hpp"
#include "transport/path.hpp"
#include "transport/segment_stream.hpp"

namespace mc {

// The sender's side of a push path: what is still to be sent, in which order. Jobs and ends of one
// grant keep their order; grants take turns, so that a short transfer does not wait behind a long
// one. Belongs to one thread, but for outstanding().
class PushQueue {
  public:
    void add(Push job);
    void add_end(GrantId grant, std::uint32_t epoch);

    [[nodiscard]] bool empty() const { return turns_.empty(); }
    // Chooses what comes next; only between batches, because it may give the turn to another grant.
    void choose();

    // The item whose turn it is; the queue is not empty.
    [[nodiscard]] bool at_end() const;  // an end rather than a job
    BatchHeader take_end();             // removes it
    [[nodiscard]] const Push& job() const;
    [[nodiscard]] std::uint64_t job_remaining() const;
    SegmentStream& stream();  // of the job, behind the last byte taken from it
    // The header of the next `length` bytes of the job, before they are taken from the stream.
    [[nodiscard]] BatchHeader header(std::uint32_t length) const;
    // `length` bytes of the job are on their way in one batch.
    void account(std::uint32_t length);
    struct Finished {
        std::function<void(Status, Moved)> done;
        Moved moved;
    };
    Finished take_job();  // removes it

    // Removes everything; the ends are dropped.
    std::vector<Finished> take_all();

    // Bytes added and not yet accounted for or removed. Thread-safe.
    [[nodiscard]] std::uint64_t outstanding() const {
        return outstanding_.load(std::memory_order_relaxed);
    }

  private:
    struct Item {
        Push push;  // for an end: only the grant and the epoch
        bool end = false;
        std::unique_ptr<SegmentStream> stream;  // made when the job's turn comes
        std::uint64_t sent = 0;
    };
    struct Flow {
        std::deque<Item> items;
        std::uint32_t epoch = 0;
        std::uint64_t sent = 0;  // in this epoch: what its end will tell
    };

    Flow& flow() { return *turns_.front(); }
    [[nodiscard]] const Flow& flow() const { return *turns_.front(); }
    void add(Item item);
    Item take_item();

    // A grant's flow lives from its first job to its end, which every grant gets in the end.
    std::unordered_map<GrantId, Flow> flows_;
    std::deque<Flow*> turns_;       // flows with items; the first has its turn
    std::uint64_t turn_bytes_ = 0;  // sent in this turn
    std::atomic<std::uint64_t> outstanding_{0};
};

}  // namespace mc
