// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>

#include "core/log.hpp"
#include "transport/batch.hpp"
#include "transport/path.hpp"
#include "transport/segment_stream.hpp"

namespace mc {

// The receiver's side of a push path: takes the batches of one stream and puts their bytes where
// this engine's own plan says, or drops them. Nothing in a header decides about an address: it
// names a grant, a part and a range of bytes, each of which is looked up and checked. Belongs to
// one thread.
class Arrival {
  public:
    Arrival(Sinks& sinks, Log& log) : sinks_(sinks), log_(log) {}

    // A header has arrived. An end is reported at once; of a batch, left() bytes follow.
    void begin(const BatchHeader& header);
    [[nodiscard]] std::uint64_t left() const { return left_; }
    // Whether the bytes go to pages; if not, they are to be read and given to place() or skip().
    [[nodiscard]] bool wanted() const { return sink_ != nullptr; }

    // Copies the batch's next bytes to their pages, or drops them; at most left().
    void place(std::span<const std::uint8_t> bytes);
    // The batch's next bytes are dropped, and with them the batch.
    void skip(std::uint64_t bytes);

    // For bytes that the kernel copies straight into pages: where the next ones go, while a visit
    // of hold() lasts, and then how many have arrived.
    Hold& hold() { return sink_->hold(); }
    [[nodiscard]] std::uint32_t epoch() const { return header_.epoch; }
    SegmentStream& stream() { return *stream_; }
    void arrived(std::uint64_t bytes);
    // The pages may not be touched any more: what is left of the batch is to be dropped.
    void refuse() { sink_.reset(); }

  private:
    void find_stream();
    void take(std::uint64_t bytes);

    Sinks& sinks_;
    Log& log_;
    BatchHeader header_;
    std::uint64_t left_ = 0;
    std::shared_ptr<Sink> sink_;  // of the batch under way; null: dropped
    std::uint64_t segments_before_ = 0;

    // Batches of one slice follow each other: the stream goes on where the last one ended. `known_`
    // tells of which slice it is, and up to which offset.
    std::shared_ptr<const Slice> slice_;
    std::optional<SegmentStream> stream_;
    BatchHeader known_;
};

}  // namespace mc
