// SPDX-License-Identifier: Apache-2.0
#include "transport/arrival.hpp"

#include <string>
#include <utility>

namespace mc {
namespace {

bool same_slice(const BatchHeader& left, const BatchHeader& right) {
    return left.grant == right.grant && left.part == right.part &&
           left.first_token == right.first_token && left.tokens == right.tokens;
}

}  // namespace

void Arrival::begin(const BatchHeader& header) {
    header_ = header;
    left_ = header.length;
    if (header.kind == BatchHeader::Kind::end) {
        if (known_.grant == header.grant) {
            stream_.reset();
            slice_.reset();
        }
        sinks_.ended(header.grant, header.epoch, header.offset);
        return;
    }
    sink_ = sinks_.find(header.grant);
    if (sink_) find_stream();
}

void Arrival::find_stream() {
    if (!slice_ || !same_slice(known_, header_)) {
        stream_.reset();
        slice_.reset();
        const TokenRange tokens{header_.first_token, header_.first_token + header_.tokens};
        Result<std::shared_ptr<const Slice>> slice = sink_->slice(header_.part, tokens);
        if (!slice) {
            log_.write(LogLevel::warning, "dropped a batch of " + std::to_string(header_.length) +
                                              " bytes: " + slice.status().message());
            return refuse();
        }
        slice_ = *std::move(slice);
        known_ = header_;
    }
    const std::uint64_t bytes = slice_->bytes();
    if (header_.offset > bytes || header_.length > bytes - header_.offset) {
        log_.write(LogLevel::warning, "dropped a batch: bytes " + std::to_string(header_.offset) +
                                          " to " + std::to_string(header_.offset + header_.length) +
                                          " of a slice of " + std::to_string(bytes));
        return refuse();
    }
    if (!stream_ || known_.offset != header_.offset) {
        stream_.emplace(slice_, header_.offset, bytes - header_.offset);
    }
    known_.offset = header_.offset + header_.length;
    segments_before_ = stream_->segments();
}

void Arrival::place(std::span<const std::uint8_t> bytes) {
    if (sink_) {
        const HoldVisit visit(sink_->hold(), header_.epoch);
        if (visit) {
            scatter(bytes.data(), *stream_, bytes.size());
        } else {
            refuse();
        }
    }
    take(bytes.size());
}

void Arrival::arrived(std::uint64_t bytes) {
    stream_->advance(bytes);
    take(bytes);
}

void Arrival::skip(std::uint64_t bytes) {
    refuse();
    take(bytes);
}

void Arrival::take(std::uint64_t bytes) {
    left_ -= bytes;
    if (!sink_) stream_.reset();  // it no longer stands where the batch ends
    if (left_ > 0) return;
    const std::shared_ptr<Sink> sink = std::exchange(sink_, nullptr);
    if (!sink || !sink->hold().current(header_.epoch)) return;
    sink->placed(header_.piece(), {header_.length, stream_->segments() - segments_before_});
}

}  // namespace mc
