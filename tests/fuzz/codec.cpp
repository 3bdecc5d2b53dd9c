// SPDX-License-Identifier: Apache-2.0
// Any bytes as a frame, as the header of a batch and as the preamble of a connection. What can be
// read keeps within the caps, and is written as bytes that are read as the same thing.
#include <gtest/gtest.h>

#include <algorithm>
#include <span>

#include "engine/preamble.hpp"
#include "protocol/messages.hpp"
#include "transport/batch.hpp"

namespace mc::fuzz {
namespace {

template <typename Range>
void at_most(const Range& range, std::size_t limit) {
    EXPECT_LE(range.size(), limit);
}

void check(const Pool& pool) {
    at_most(pool.name, kMaxNameBytes);
    at_most(pool.fingerprint, kMaxNameBytes);
    at_most(pool.planes, kMaxPlanes);
    EXPECT_LE(pool.page_size, kMaxPageSize);
}

// The caps that each kind of message has; most have none.
template <typename M>
void check(const M&) {}
void check(const Challenge& message) { at_most(message.keys, kMaxKeys); }
void check(const Hello& message) {
    at_most(message.address, kMaxNameBytes);
    at_most(message.pools, kMaxPools);
    for (const Pool& pool : message.pools) check(pool);
}
void check(const PoolAdded& message) { check(message.pool); }
void check(const Plan& message) {
    at_most(message.pool, kMaxNameBytes);
    at_most(message.match.pairs, std::size_t{2} * kMaxPlanes);
    EXPECT_LE(message.match.order.block_tokens, kMaxPageSize);
}
void check(const Recv& message) {
    at_most(message.tag, kMaxTagBytes);
    at_most(message.parts, kMaxParts);
    EXPECT_LT(message.receiver_index, message.receiver_count);
    std::size_t ranges = 0;
    for (const RecvPart& part : message.parts) {
        ranges += part.wanted.size();
        std::uint32_t end = 0;
        for (const TokenRange range : part.wanted) {
            EXPECT_FALSE(range.empty());
            EXPECT_GE(range.first, end) << "ranges overlap";
            end = range.end;
        }
    }
    EXPECT_LE(ranges, kMaxRanges);
}
void check(const std::vector<Segment>& segments) {
    at_most(segments, kMaxSegments);
    for (const Segment& segment : segments)
        EXPECT_LE(segment.length, UINT64_MAX - segment.address) << "a segment wraps around";
}
void check(const Read& message) { check(message.source); }
void check(const Write& message) {
    check(message.source);
    check(message.destination);
}
void check(const Ready& message) {
    at_most(message.pages, kMaxPagesPerMessage);
    EXPECT_LE(message.tokens.first, message.tokens.end);
}
void check(const Data& message) { EXPECT_LE(message.tokens.first, message.tokens.end); }
void check(const Fail& message) {
    at_most(message.reason, kMaxReasonBytes);
    EXPECT_NE(message.code, Code::ok);
}
void check(const WriteRefused& message) {
    at_most(message.reason, kMaxReasonBytes);
    EXPECT_NE(message.code, Code::ok);
}
void check(const Bye& message) { at_most(message.reason, kMaxReasonBytes); }

Bytes frame_of(const Message& message) {
    Bytes frame;
    encode(message, frame);
    return frame;
}

void check_frame(std::span<const std::uint8_t> frame) {
    const auto length = frame_length(frame);
    EXPECT_TRUE(!length || !*length || **length <= kMaxFrameBytes);
    const auto decoded = decode(frame);
    if (!decoded || !*decoded) return;
    const Message& message = **decoded;
    std::visit([](const auto& body) { check(body); }, message);

    const Bytes written = frame_of(message);
    EXPECT_LE(written.size(), frame.size() + sizeof(std::uint32_t)) << "an encoding that grows";
    const auto again = decode(std::span(written).subspan(sizeof(std::uint32_t)));
    ASSERT_TRUE(again.ok() && again->has_value()) << again.status().message();
    EXPECT_EQ((*again)->index(), message.index());
    EXPECT_EQ(frame_of(**again), written);
}

void check_batch(std::span<const std::uint8_t> bytes) {
    if (bytes.size() < BatchHeader::kBytes) return;
    const auto header = decode_batch_header(bytes.first<BatchHeader::kBytes>());
    if (!header) return;
    EXPECT_LE(header->length, kMaxBatchBytes);
    if (header->kind == BatchHeader::Kind::batch) {
        EXPECT_LE(header->offset, UINT64_MAX - header->length);
        EXPECT_LE(header->first_token, UINT32_MAX - header->tokens);
    }
    BatchHeader::Wire written{};
    encode(*header, written.data());
    EXPECT_TRUE(std::ranges::equal(written, bytes.first<BatchHeader::kBytes>()));
}

void check_preamble(std::span<const std::uint8_t> bytes) {
    if (bytes.size() < Preamble::kBytes) return;
    const auto preamble = decode_preamble(bytes.first<Preamble::kBytes>());
    if (!preamble) return;
    std::array<std::uint8_t, Preamble::kBytes> written{};
    encode(*preamble, written);
    const auto again = decode_preamble(written);
    ASSERT_TRUE(again.ok());
    EXPECT_EQ(again->kind, preamble->kind);
    EXPECT_EQ(again->token, preamble->token);
}

}  // namespace
}  // namespace mc::fuzz

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const std::span<const std::uint8_t> bytes(data, size);
    mc::fuzz::check_frame(bytes);
    mc::fuzz::check_batch(bytes);
    mc::fuzz::check_preamble(bytes);
    return 0;
}
