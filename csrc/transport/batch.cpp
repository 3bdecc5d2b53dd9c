// SPDX-License-Identifier: Apache-2.0
#include "transport/batch.hpp"

#include <string>

namespace mc {
namespace {

constexpr std::uint32_t kMagic = 0x6263'6d01;  // the last byte is the format's version

// Fixed offsets in place of ByteWriter: these run once for each batch of a few kilobytes.
template <typename T>
std::uint8_t* put(std::uint8_t* out, T value) {
    for (std::size_t i = 0; i < sizeof(T); ++i) {
        out[i] = static_cast<std::uint8_t>(std::uint64_t{value} >> (8 * i));
    }
    return out + sizeof(T);
}

template <typename T>
T get(const std::uint8_t*& in) {
    std::uint64_t value = 0;
    for (std::size_t i = 0; i < sizeof(T); ++i) value |= std::uint64_t{in[i]} << (8 * i);
    in += sizeof(T);
    return static_cast<T>(value);
}

Status malformed(const std::string& what) { return {Code::protocol, "malformed batch: " + what}; }

}  // namespace

void encode(const BatchHeader& header, std::uint8_t* out) {
    out = put(out, kMagic);
    out = put(out, static_cast<std::uint16_t>(header.kind));
    out = put(out, header.part);
    out = put(out, header.grant.value);
    out = put(out, header.epoch);
    out = put(out, header.first_token);
    out = put(out, header.tokens);
    out = put(out, header.length);
    put(out, header.offset);
}

Result<BatchHeader> decode_batch_header(std::span<const std::uint8_t, BatchHeader::kBytes> bytes) {
    const std::uint8_t* in = bytes.data();
    if (get<std::uint32_t>(in) != kMagic) {
        return malformed("the stream does not carry batches of this version");
    }
    const auto kind = get<std::uint16_t>(in);
    BatchHeader header;
    header.part = get<std::uint16_t>(in);
    header.grant = GrantId{get<std::uint64_t>(in)};
    header.epoch = get<std::uint32_t>(in);
    header.first_token = get<std::uint32_t>(in);
    header.tokens = get<std::uint32_t>(in);
    header.length = get<std::uint32_t>(in);
    header.offset = get<std::uint64_t>(in);
    switch (kind) {
        case static_cast<std::uint16_t>(BatchHeader::Kind::batch):
            header.kind = BatchHeader::Kind::batch;
            if (header.length == 0 || header.length > kMaxBatchBytes) {
                return malformed("length " + std::to_string(header.length));
            }
            if (header.offset > UINT64_MAX - header.length) return malformed("offset overflows");
            if (header.first_token > UINT32_MAX - header.tokens) {
                return malformed("token range overflows");
            }
            return header;
        case static_cast<std::uint16_t>(BatchHeader::Kind::end):
            header.kind = BatchHeader::Kind::end;
            if (header.length != 0) return malformed("an end with a payload");
            return header;
        default: return malformed("kind " + std::to_string(kind));
    }
}

}  // namespace mc
