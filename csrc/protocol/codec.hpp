// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "core/bytes.hpp"
#include "layout/match.hpp"
#include "layout/pool.hpp"
#include "layout/slice.hpp"

// Encodings of the layout's values inside messages. A read of a malformed value fails the reader.
namespace mc {

void put_pool(ByteWriter& writer, const Pool& pool);
Pool get_pool(ByteReader& reader);

void put_match(ByteWriter& writer, const Match& match);
Match get_match(ByteReader& reader);

// Delta-coded: consecutive pages or neighbouring segments cost one or two bytes each.
void put_pages(ByteWriter& writer, std::span<const std::int32_t> pages);
std::vector<std::int32_t> get_pages(ByteReader& reader);
void put_segments(ByteWriter& writer, std::span<const Segment> segments);
std::vector<Segment> get_segments(ByteReader& reader);
void put_ranges(ByteWriter& writer, std::span<const TokenRange> ranges);
std::vector<TokenRange> get_ranges(ByteReader& reader);
void put_range(ByteWriter& writer, TokenRange range);
TokenRange get_range(ByteReader& reader);

}  // namespace mc
