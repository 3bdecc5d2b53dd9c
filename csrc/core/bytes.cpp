// SPDX-License-Identifier: Apache-2.0
#include "core/bytes.hpp"

#include <algorithm>

namespace mc {

void ByteWriter::put_varint(std::uint64_t value) {
    while (value >= 0x80) {
        out_.push_back(static_cast<std::uint8_t>(value | 0x80));
        value >>= 7;
    }
    out_.push_back(static_cast<std::uint8_t>(value));
}

void ByteWriter::put_signed_varint(std::int64_t value) {
    const auto bits = static_cast<std::uint64_t>(value);
    put_varint((bits << 1) ^ (value < 0 ? UINT64_MAX : 0));
}

void ByteWriter::put_raw(std::span<const std::uint8_t> bytes) {
    out_.insert(out_.end(), bytes.begin(), bytes.end());
}

void ByteWriter::put_text(std::string_view text) {
    put_varint(text.size());
    out_.insert(out_.end(), text.begin(), text.end());
}

Token ByteReader::get_token() {
    Token token;
    const auto bytes = get_raw(token.bytes.size());
    if (!failed_) std::copy(bytes.begin(), bytes.end(), token.bytes.begin());
    return token;
}

std::uint64_t ByteReader::get_varint(std::uint64_t maximum) {
    std::uint64_t value = 0;
    for (unsigned shift = 0; shift < 64; shift += 7) {
        const auto byte = get<std::uint8_t>();
        if (failed_) return 0;
        if (shift == 63 && byte > 1) break;
        value |= std::uint64_t{byte & 0x7fU} << shift;
        if ((byte & 0x80) == 0) {
            if (value > maximum) break;
            return value;
        }
    }
    fail();
    return 0;
}

std::int64_t ByteReader::get_signed_varint() {
    const std::uint64_t bits = get_varint();
    return static_cast<std::int64_t>((bits >> 1) ^ (~(bits & 1) + 1));
}

std::span<const std::uint8_t> ByteReader::get_raw(std::size_t count) {
    if (!take(count)) return {};
    return in_.subspan(at_ - count, count);
}

std::string ByteReader::get_text(std::size_t maximum) {
    const auto bytes = get_raw(get_varint(maximum));
    return {bytes.begin(), bytes.end()};
}

}  // namespace mc
