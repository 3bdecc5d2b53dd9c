// SPDX-License-Identifier: Apache-2.0
#include "protocol/messages.hpp"

#include <algorithm>
#include <array>
#include <type_traits>
#include <utility>

#include "protocol/codec.hpp"

namespace mc {

namespace {

constexpr std::uint8_t kOptionalFlag =
    1;  // a receiver that does not know the type skips the message

void put(ByteWriter& w, const Challenge& m) {
    w.put(m.nonce);
    w.put_varint(m.keys.size());
    for (const Token& key : m.keys) w.put(key);
}
void get(ByteReader& r, Challenge& m) {
    m.nonce = r.get_token();
    const std::uint64_t count = r.get_varint(kMaxKeys);
    for (std::uint64_t i = 0; i < count && !r.failed(); ++i) m.keys.push_back(r.get_token());
}

void put(ByteWriter& w, const Proof& m) { w.put_raw(m.mac); }
void get(ByteReader& r, Proof& m) {
    const auto bytes = r.get_raw(m.mac.size());
    std::copy(bytes.begin(), bytes.end(), m.mac.begin());
}

void put(ByteWriter& w, const Hello& m) {
    w.put(m.oldest_version);
    w.put(m.version);
    w.put(m.plan_version);
    w.put(m.instance);
    w.put_text(m.address);
    w.put_text(m.boot_id);
    w.put_text(m.same_host_name);
    w.put(m.link_token);
    w.put(m.paths);
    w.put(m.recv_credits);
    w.put_varint(m.pools.size());
    for (const Pool& pool : m.pools) put_pool(w, pool);
}
void get(ByteReader& r, Hello& m) {
    m.oldest_version = r.get<std::uint16_t>();
    m.version = r.get<std::uint16_t>();
    m.plan_version = r.get<std::uint32_t>();
    m.instance = r.get_token();
    m.address = r.get_text(kMaxNameBytes);
    m.boot_id = r.get_text(64);
    m.same_host_name = r.get_text(108);
    m.link_token = r.get_token();
    m.paths = r.get<std::uint8_t>();
    m.recv_credits = r.get<std::uint32_t>();
    const std::uint64_t count = r.get_varint(kMaxPools);
    for (std::uint64_t i = 0; i < count && !r.failed(); ++i) m.pools.push_back(get_pool(r));
}

void put(ByteWriter& w, const PoolAdded& m) { put_pool(w, m.pool); }
void get(ByteReader& r, PoolAdded& m) { m.pool = get_pool(r); }

void put(ByteWriter& w, const Plan& m) {
    w.put(m.id);
    w.put_text(m.pool);
    put_match(w, m.match);
}
void get(ByteReader& r, Plan& m) {
    m.id = r.get_id<PlanId>();
    m.pool = r.get_text(kMaxNameBytes);
    m.match = get_match(r);
}

bool get_flag(ByteReader& r) {
    const auto value = r.get<std::uint8_t>();
    if (value > 1) r.fail();
    return value == 1;
}

void put(ByteWriter& w, const Recv& m) {
    w.put(m.grant);
    w.put(m.request);
    w.put_text(m.tag);
    w.put_varint(m.receiver_index);
    w.put_varint(m.receiver_count);
    w.put(m.remaining_ms);
    w.put_varint(m.segment_bytes);
    w.put(static_cast<std::uint8_t>(m.verify));
    w.put_varint(m.parts.size());
    for (const RecvPart& part : m.parts) {
        w.put(part.plan);
        put_ranges(w, part.wanted);
    }
}
void get(ByteReader& r, Recv& m) {
    constexpr std::uint64_t kMaxReceivers = 1U << 20;
    m.grant = r.get_id<GrantId>();
    m.request = r.get<std::uint64_t>();
    m.tag = r.get_text(kMaxTagBytes);
    m.receiver_index = static_cast<std::uint32_t>(r.get_varint(kMaxReceivers));
    m.receiver_count = static_cast<std::uint32_t>(r.get_varint(kMaxReceivers));
    if (m.receiver_index >= m.receiver_count) r.fail();
    m.remaining_ms = r.get<std::uint32_t>();
    m.segment_bytes = r.get_varint();
    m.verify = get_flag(r);
    const std::uint64_t count = r.get_varint(kMaxParts);
    std::size_t ranges = 0;
    for (std::uint64_t i = 0; i < count && !r.failed(); ++i) {
        const auto plan = r.get_id<PlanId>();
        m.parts.push_back({plan, get_ranges(r)});
        ranges += m.parts.back().wanted.size();
        if (ranges > kMaxRanges) r.fail();
    }
}

void put(ByteWriter& w, const Read& m) {
    w.put(m.grant);
    w.put(m.remaining_ms);
    w.put_varint(m.segment_bytes);
    w.put(static_cast<std::uint8_t>(m.verify));
    put_segments(w, m.source);
}
void get(ByteReader& r, Read& m) {
    m.grant = r.get_id<GrantId>();
    m.remaining_ms = r.get<std::uint32_t>();
    m.segment_bytes = r.get_varint();
    m.verify = get_flag(r);
    m.source = get_segments(r);
}

void put(ByteWriter& w, const Write& m) {
    w.put(m.write);
    w.put(m.remaining_ms);
    put_segments(w, m.destination);
    put_segments(w, m.source);
}
void get(ByteReader& r, Write& m) {
    m.write = r.get_id<TransferId>();
    m.remaining_ms = r.get<std::uint32_t>();
    m.destination = get_segments(r);
    m.source = get_segments(r);
}

void put(ByteWriter& w, const WriteGrant& m) {
    w.put(m.write);
    w.put(m.grant);
    w.put_varint(m.segment_bytes);
    w.put(static_cast<std::uint8_t>(m.verify));
}
void get(ByteReader& r, WriteGrant& m) {
    m.write = r.get_id<TransferId>();
    m.grant = r.get_id<GrantId>();
    m.segment_bytes = r.get_varint();
    m.verify = get_flag(r);
}

// Failures carry a code other than ok; a peer's "ok" would turn into a success here.
void put_reason(ByteWriter& w, Code code, const std::string& reason) {
    w.put(code);
    w.put_text(std::string_view(reason).substr(0, kMaxReasonBytes));
}
void get_reason(ByteReader& r, Code& code, std::string& reason) {
    code = r.get_enum(Code::internal);
    reason = r.get_text(kMaxReasonBytes);
}

void put(ByteWriter& w, const WriteRefused& m) {
    w.put(m.write);
    put_reason(w, m.code, m.reason);
}
void get(ByteReader& r, WriteRefused& m) {
    m.write = r.get_id<TransferId>();
    get_reason(r, m.code, m.reason);
    if (m.code == Code::ok) r.fail();
}

void put(ByteWriter& w, const Ready& m) {
    w.put(m.grant);
    w.put(m.epoch);
    w.put(m.part);
    put_range(w, m.tokens);
    put_pages(w, m.pages);
    w.put(m.guard);
    w.put(m.expected);
}
void get(ByteReader& r, Ready& m) {
    m.grant = r.get_id<GrantId>();
    m.epoch = r.get<std::uint32_t>();
    m.part = r.get<std::uint16_t>();
    m.tokens = get_range(r);
    m.pages = get_pages(r);
    m.guard = r.get<std::uint64_t>();
    m.expected = r.get<std::uint64_t>();
}

void put(ByteWriter& w, const Data& m) {
    w.put(m.grant);
    w.put(m.epoch);
    w.put(m.part);
    put_range(w, m.tokens);
    w.put_varint(m.offset);
    w.put_raw(m.bytes);
}
void get(ByteReader& r, Data& m) {
    m.grant = r.get_id<GrantId>();
    m.epoch = r.get<std::uint32_t>();
    m.part = r.get<std::uint16_t>();
    m.tokens = get_range(r);
    m.offset = r.get_varint();
    const auto bytes = r.rest();
    m.bytes.assign(bytes.begin(), bytes.end());
}

void put(ByteWriter& w, const SliceDigest& m) {
    w.put(m.grant);
    w.put(m.epoch);
    w.put(m.part);
    put_range(w, m.tokens);
    w.put(m.value);
}
void get(ByteReader& r, SliceDigest& m) {
    m.grant = r.get_id<GrantId>();
    m.epoch = r.get<std::uint32_t>();
    m.part = r.get<std::uint16_t>();
    m.tokens = get_range(r);
    m.value = r.get<std::uint64_t>();
}

void put(ByteWriter& w, const Done& m) {
    w.put(m.grant);
    w.put(m.epoch);
    w.put_varint(m.bytes);
    w.put_varint(m.lanes);
}
void get(ByteReader& r, Done& m) {
    m.grant = r.get_id<GrantId>();
    m.epoch = r.get<std::uint32_t>();
    m.bytes = r.get_varint();
    m.lanes = static_cast<std::uint32_t>(r.get_varint(UINT32_MAX));
}

void put(ByteWriter& w, const Fail& m) {
    w.put(m.grant);
    put_reason(w, m.code, m.reason);
}
void get(ByteReader& r, Fail& m) {
    m.grant = r.get_id<GrantId>();
    get_reason(r, m.code, m.reason);
    if (m.code == Code::ok) r.fail();
}

void put(ByteWriter& w, const Rewind& m) {
    w.put(m.grant);
    w.put(m.epoch);
    w.put_varint(m.lanes);
}
void get(ByteReader& r, Rewind& m) {
    m.grant = r.get_id<GrantId>();
    m.epoch = r.get<std::uint32_t>();
    m.lanes = static_cast<std::uint32_t>(r.get_varint(UINT32_MAX));
}

void put(ByteWriter& w, const Rewound& m) {
    w.put(m.grant);
    w.put(m.epoch);
}
void get(ByteReader& r, Rewound& m) {
    m.grant = r.get_id<GrantId>();
    m.epoch = r.get<std::uint32_t>();
}

void put(ByteWriter& w, const Bye& m) { put_reason(w, m.code, m.reason); }
void get(ByteReader& r, Bye& m) { get_reason(r, m.code, m.reason); }

// Messages whose only field is a grant, or a ping's value.
template <typename M>
concept GrantOnly = std::is_same_v<M, Known> || std::is_same_v<M, Received> ||
                    std::is_same_v<M, Cancel> || std::is_same_v<M, Cancelled>;
template <typename M>
concept PingPong = std::is_same_v<M, Ping> || std::is_same_v<M, Pong>;

void put(ByteWriter& w, const GrantOnly auto& m) { w.put(m.grant); }
void get(ByteReader& r, GrantOnly auto& m) { m.grant = r.get_id<GrantId>(); }
void put(ByteWriter& w, const PingPong auto& m) { w.put(m.value); }
void get(ByteReader& r, PingPong auto& m) { m.value = r.get<std::uint64_t>(); }

template <std::size_t I>
Result<std::optional<Message>> decode_body(std::span<const std::uint8_t> body) {
    ByteReader reader(body);
    std::variant_alternative_t<I, Message> message;
    get(reader, message);
    if (reader.failed() || !reader.at_end()) {
        return Status(Code::protocol, "malformed " + std::string(name_of(Message(message))) +
                                          " message of " + std::to_string(body.size()) + " bytes");
    }
    return std::optional<Message>(std::move(message));
}

template <std::size_t... I>
constexpr auto make_decoders(std::index_sequence<I...>) {
    return std::array{&decode_body<I>...};
}
constexpr auto kDecoders = make_decoders(std::make_index_sequence<std::variant_size_v<Message>>());

constexpr std::array<std::string_view, std::variant_size_v<Message>> kNames{
    "HELLO",     "POOL",   "PLAN",    "RECV",   "READ", "WRITE",    "WRITE_GRANT", "WRITE_REFUSED",
    "KNOWN",     "READY",  "DATA",    "DIGEST", "DONE", "RECEIVED", "FAIL",        "CANCEL",
    "CANCELLED", "REWIND", "REWOUND", "PING",   "PONG", "BYE",      "CHALLENGE",   "PROOF"};

}  // namespace

std::string_view name_of(const Message& message) { return kNames[message.index()]; }

void encode(const Message& message, Bytes& out) {
    const std::size_t start = out.size();
    ByteWriter writer(out);
    writer.put(std::uint32_t{0});  // the length, filled in below
    writer.put(static_cast<std::uint8_t>(message.index() + 1));
    writer.put(std::uint8_t{0});
    std::visit([&](const auto& body) { put(writer, body); }, message);
    const std::size_t length = out.size() - start - sizeof(std::uint32_t);
    for (std::size_t i = 0; i < sizeof(std::uint32_t); ++i) {
        out[start + i] = static_cast<std::uint8_t>(length >> (8 * i));
    }
}

Result<std::optional<Message>> decode(std::span<const std::uint8_t> frame) {
    if (frame.size() < 2)
        return Status(Code::protocol, "a frame of " + std::to_string(frame.size()) + " bytes");
    const std::size_t type = frame[0];
    if (type == 0 || type > kDecoders.size()) {
        if ((frame[1] & kOptionalFlag) != 0) return std::optional<Message>();
        return Status(Code::protocol, "message of unknown type " + std::to_string(type));
    }
    return kDecoders[type - 1](frame.subspan(2));
}

Result<std::optional<std::size_t>> frame_length(std::span<const std::uint8_t> bytes) {
    if (bytes.size() < sizeof(std::uint32_t)) return std::optional<std::size_t>();
    const std::size_t length = ByteReader(bytes).get<std::uint32_t>();
    if (length > kMaxFrameBytes) {
        return Status(Code::protocol, "a frame of " + std::to_string(length) +
                                          " bytes exceeds the limit of " +
                                          std::to_string(kMaxFrameBytes));
    }
    return std::optional(length);
}

}  // namespace mc
