// SPDX-License-Identifier: Apache-2.0
#include "protocol/codec.hpp"

#include <limits>

#include "protocol/messages.hpp"

namespace mc {

namespace {

constexpr std::uint64_t kMax32 = std::numeric_limits<std::uint32_t>::max();

std::uint32_t get_u32(ByteReader& reader, std::uint64_t maximum = kMax32) {
    return static_cast<std::uint32_t>(reader.get_varint(maximum));
}

// Reserves what the remaining bytes could hold at most, so that a count alone costs no memory.
template <typename T>
std::vector<T> reserve_for(const ByteReader& reader, std::uint64_t count) {
    std::vector<T> values;
    values.reserve(std::min<std::uint64_t>(count, reader.remaining()));
    return values;
}

void put_plane(ByteWriter& writer, const Plane& plane) {
    writer.put_varint(plane.layer);
    writer.put(plane.kind);
    writer.put_text(plane.dtype);
    writer.put_varint(plane.element_bytes);
    writer.put(plane.base);
    writer.put_varint(plane.page_stride);
    writer.put_varint(plane.token_stride);
    writer.put_varint(plane.head_stride);
    writer.put_varint(plane.element_stride);
    writer.put_varint(plane.heads);
    writer.put_varint(plane.elements);
    writer.put_varint(plane.first_head);
}

Plane get_plane(ByteReader& reader) {
    Plane plane;
    plane.layer = get_u32(reader);
    plane.kind = reader.get_enum(PlaneKind::aux);
    plane.dtype = reader.get_text(64);
    plane.element_bytes = get_u32(reader);
    plane.base = reader.get<std::uint64_t>();
    plane.page_stride = reader.get_varint();
    plane.token_stride = reader.get_varint();
    plane.head_stride = reader.get_varint();
    plane.element_stride = reader.get_varint();
    plane.heads = get_u32(reader);
    plane.elements = get_u32(reader);
    plane.first_head = get_u32(reader);
    return plane;
}

}  // namespace

void put_pool(ByteWriter& writer, const Pool& pool) {
    writer.put_text(pool.name);
    writer.put_text(pool.fingerprint);
    writer.put(pool.memory.type);
    writer.put(pool.memory.device);
    writer.put_varint(pool.page_size);
    writer.put_varint(pool.page_count);
    writer.put_varint(
        pool.null_page ? std::uint64_t{1} + static_cast<std::uint32_t>(*pool.null_page) : 0);
    writer.put_varint(pool.planes.size());
    for (const Plane& plane : pool.planes) put_plane(writer, plane);
}

Pool get_pool(ByteReader& reader) {
    Pool pool;
    pool.name = reader.get_text(kMaxNameBytes);
    pool.fingerprint = reader.get_text(kMaxNameBytes);
    pool.memory.type = reader.get_enum(MemoryKind::Type::cuda);
    pool.memory.device = reader.get<std::int32_t>();
    pool.page_size = get_u32(reader, kMaxPageSize);
    pool.page_count = get_u32(reader);
    const std::uint64_t null_page = reader.get_varint(kMax32 + 1);
    if (null_page > 0)
        pool.null_page = static_cast<std::int32_t>(static_cast<std::uint32_t>(null_page - 1));
    const std::uint64_t planes = reader.get_varint(kMaxPlanes);
    pool.planes = reserve_for<Plane>(reader, planes);
    for (std::uint64_t i = 0; i < planes && !reader.failed(); ++i)
        pool.planes.push_back(get_plane(reader));
    return pool;
}

void put_match(ByteWriter& writer, const Match& match) {
    for (Axis axis : match.order.axes) writer.put(axis);
    writer.put_varint(match.order.block_tokens);
    writer.put_varint(match.token_bytes);
    writer.put_varint(match.pairs.size());
    for (const PlanePair& pair : match.pairs) {
        writer.put_varint(pair.source_plane);
        writer.put_varint(pair.source_head);
        writer.put_varint(pair.source_element);
        writer.put_varint(pair.destination_plane);
        writer.put_varint(pair.destination_head);
        writer.put_varint(pair.destination_element);
        writer.put_varint(pair.heads);
        writer.put_varint(pair.elements);
    }
}

Match get_match(ByteReader& reader) {
    Match match;
    for (Axis& axis : match.order.axes) axis = reader.get_enum(Axis::token);
    match.order.block_tokens = get_u32(reader, kMaxPageSize);
    match.token_bytes = reader.get_varint();
    const std::uint64_t pairs = reader.get_varint(2 * kMaxPlanes);
    match.pairs = reserve_for<PlanePair>(reader, pairs);
    for (std::uint64_t i = 0; i < pairs && !reader.failed(); ++i) {
        PlanePair pair;
        pair.source_plane = get_u32(reader);
        pair.source_head = get_u32(reader);
        pair.source_element = get_u32(reader);
        pair.destination_plane = get_u32(reader);
        pair.destination_head = get_u32(reader);
        pair.destination_element = get_u32(reader);
        pair.heads = get_u32(reader);
        pair.elements = get_u32(reader);
        match.pairs.push_back(pair);
    }
    return match;
}

void put_pages(ByteWriter& writer, std::span<const std::int32_t> pages) {
    writer.put_varint(pages.size());
    std::int64_t expected = 0;
    for (const std::int32_t page : pages) {
        writer.put_signed_varint(page - expected);
        expected = std::int64_t{page} + 1;
    }
}

std::vector<std::int32_t> get_pages(ByteReader& reader) {
    const std::uint64_t count = reader.get_varint(kMaxPagesPerMessage);
    auto pages = reserve_for<std::int32_t>(reader, count);
    std::int64_t expected = 0;
    for (std::uint64_t i = 0; i < count && !reader.failed(); ++i) {
        const std::int64_t delta = reader.get_signed_varint();
        // |expected| < 2^32, so a delta within 33 bits cannot overflow the sum.
        if (delta > (std::int64_t{1} << 33) || delta < -(std::int64_t{1} << 33)) reader.fail();
        const std::int64_t page = reader.failed() ? 0 : expected + delta;
        if (page < std::numeric_limits<std::int32_t>::min() ||
            page > std::numeric_limits<std::int32_t>::max()) {
            reader.fail();
            break;
        }
        pages.push_back(static_cast<std::int32_t>(page));
        expected = page + 1;
    }
    return pages;
}

void put_segments(ByteWriter& writer, std::span<const Segment> segments) {
    writer.put_varint(segments.size());
    std::uint64_t expected = 0;
    for (const Segment& segment : segments) {
        // Wraps modulo 2^64 on both sides alike.
        writer.put_signed_varint(static_cast<std::int64_t>(segment.address - expected));
        writer.put_varint(segment.length);
        expected = segment.address + segment.length;
    }
}

std::vector<Segment> get_segments(ByteReader& reader) {
    const std::uint64_t count = reader.get_varint(kMaxSegments);
    auto segments = reserve_for<Segment>(reader, count);
    std::uint64_t expected = 0;
    for (std::uint64_t i = 0; i < count && !reader.failed(); ++i) {
        Segment segment;
        segment.address = expected + static_cast<std::uint64_t>(reader.get_signed_varint());
        segment.length = reader.get_varint();
        if (segment.length > UINT64_MAX - segment.address) reader.fail();
        expected = segment.address + segment.length;
        segments.push_back(segment);
    }
    return segments;
}

void put_range(ByteWriter& writer, TokenRange range) {
    writer.put_varint(range.first);
    writer.put_varint(range.count());
}

TokenRange get_range(ByteReader& reader) {
    TokenRange range;
    range.first = get_u32(reader);
    range.end = range.first + get_u32(reader, kMax32 - range.first);
    return range;
}

void put_ranges(ByteWriter& writer, std::span<const TokenRange> ranges) {
    writer.put_varint(ranges.size());
    for (const TokenRange range : ranges) put_range(writer, range);
}

std::vector<TokenRange> get_ranges(ByteReader& reader) {
    const std::uint64_t count = reader.get_varint(kMaxRanges);
    auto ranges = reserve_for<TokenRange>(reader, count);
    std::uint32_t previous_end = 0;
    for (std::uint64_t i = 0; i < count && !reader.failed(); ++i) {
        const TokenRange range = get_range(reader);
        if (range.empty() || (i > 0 && range.first < previous_end)) reader.fail();
        previous_end = range.end;
        ranges.push_back(range);
    }
    return ranges;
}

}  // namespace mc
