// SPDX-License-Identifier: Apache-2.0
#include "engine/sinks.hpp"

#include <array>
#include <cstring>
#include <string>
#include <utility>

#include "layout/digest.hpp"

namespace mc {

GrantSink::GrantSink(std::shared_ptr<Transfer> transfer, std::vector<SinkPart> parts)
    : transfer_(std::move(transfer)), parts_(std::move(parts)) {}

Result<std::shared_ptr<const Slice>> GrantSink::slice(std::uint16_t part, TokenRange tokens) {
    if (part >= parts_.size())
        return Status(Code::protocol,
                      "a batch for part " + std::to_string(part) + ", which was not asked for");
    const SinkPart& wanted = parts_[part];
    if (wanted.list) {
        if (!tokens.empty()) return Status(Code::protocol, "a batch with tokens for a plain list");
        return wanted.list;
    }
    if (tokens.empty() || intersect(wanted.wanted, {&tokens, 1}) != std::vector{tokens}) {
        return Status(Code::protocol, "a batch for tokens that were not asked for");
    }
    return Slice::make(wanted.walk, *wanted.pages, tokens);
}

void GrantSink::placed(const Piece& piece, Moved moved) {
    if (piece.epoch != epoch_.load(std::memory_order_relaxed)) return;
    transfer_->count(path_.load(std::memory_order_relaxed), moved);
    placed_.fetch_add(moved.bytes, std::memory_order_release);
}

Status GrantSink::place(const Data& data) {
    auto destination = slice(data.part, data.tokens);
    if (!destination) return destination.status();
    const std::uint64_t size = (*destination)->bytes();
    if (data.offset > size || data.bytes.size() > size - data.offset)
        return {Code::protocol, "DATA beyond the end of its slice"};
    const HoldVisit visit(*hold_, data.epoch);
    if (!visit) return {};  // closed meanwhile: the bytes are not wanted any more
    Cursor cursor(std::move(*destination), data.offset, data.bytes.size());
    std::array<Segment, 64> segments;
    const std::uint8_t* from = data.bytes.data();
    std::uint64_t spans = 0;
    for (std::size_t count = segments.size(); count == segments.size();) {
        count = cursor.next(segments);
        for (std::size_t i = 0; i < count; ++i) {
            std::memcpy(reinterpret_cast<void*>(segments[i].address), from, segments[i].length);
            from += segments[i].length;
        }
        spans += count;
    }
    placed({{},
            data.epoch,
            data.part,
            data.tokens.first,
            data.tokens.count(),
            data.offset,
            data.bytes.size()},
           {data.bytes.size(), spans});
    return {};
}

Status GrantSink::verify(std::span<const SliceDigest> digests) {
    std::uint64_t covered = 0;
    std::uint64_t wanted = 0;
    for (const SinkPart& part : parts_) {
        wanted +=
            part.list ? part.list->bytes() : part.walk->token_bytes() * count_tokens(part.wanted);
    }
    const HoldVisit visit(*hold_, epoch());
    if (!visit) return {Code::aborted, "the transfer has ended"};
    for (const SliceDigest& expected : digests) {
        auto received = slice(expected.part, expected.tokens);
        if (!received) return received.status();
        const std::uint64_t bytes = (*received)->bytes();
        covered += bytes;
        if (digest(Cursor(std::move(*received), 0, bytes)) != expected.value) {
            return {Code::internal, "the bytes of tokens " + std::to_string(expected.tokens.first) +
                                        " to " + std::to_string(expected.tokens.end) + " of part " +
                                        std::to_string(expected.part) +
                                        " arrived damaged: their digest is not the sender's"};
        }
    }
    if (covered != wanted)
        return {Code::protocol, "the sender's digests cover " + std::to_string(covered) + " of " +
                                    std::to_string(wanted) + " bytes"};
    return {};
}

void GrantSink::rewind(std::uint32_t epoch) {
    hold_->advance(epoch);
    epoch_.store(epoch, std::memory_order_relaxed);
    placed_.store(0, std::memory_order_release);
}

void SessionSinks::ended(GrantId grant, std::uint32_t epoch, std::uint64_t /*bytes*/) {
    ended_(grant, epoch);
}

std::shared_ptr<GrantSink> SessionSinks::get(GrantId grant) {
    const std::lock_guard lock(mutex_);
    const auto found = sinks_.find(grant);
    return found == sinks_.end() ? nullptr : found->second;
}

void SessionSinks::add(GrantId grant, std::shared_ptr<GrantSink> sink) {
    const std::lock_guard lock(mutex_);
    sinks_[grant] = std::move(sink);
}

void SessionSinks::remove(GrantId grant) {
    const std::lock_guard lock(mutex_);
    sinks_.erase(grant);
}

}  // namespace mc
