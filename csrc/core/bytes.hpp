// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "core/ids.hpp"

namespace mc {

using Bytes = std::vector<std::uint8_t>;

// Appends little-endian values to a buffer.
class ByteWriter {
  public:
    explicit ByteWriter(Bytes& out) : out_(out) {}

    template <typename T>
        requires std::is_integral_v<T> || std::is_enum_v<T>
    void put(T value) {
        if constexpr (std::is_enum_v<T>) {
            put(static_cast<std::underlying_type_t<T>>(value));
        } else {
            using Unsigned = std::make_unsigned_t<T>;
            auto bits = static_cast<Unsigned>(value);
            for (std::size_t i = 0; i < sizeof(T); ++i) {
                out_.push_back(static_cast<std::uint8_t>(bits & 0xff));
                if constexpr (sizeof(T) > 1) bits = static_cast<Unsigned>(bits >> 8);
            }
        }
    }
    template <typename Tag>
    void put(Id<Tag> id) {
        put(id.value);
    }
    void put(const Token& token) { put_raw(token.bytes); }
    void put_varint(std::uint64_t value);        // LEB128: 7 bits a byte, low bits first
    void put_signed_varint(std::int64_t value);  // zigzag
    void put_raw(std::span<const std::uint8_t> bytes);
    void put_text(std::string_view text);  // varint length, then the bytes

  private:
    Bytes& out_;
};

// Reads what ByteWriter wrote, from bytes that nobody vouches for: after the first value that is
// missing, too long or out of range, failed() is true and all further values are zero.
class ByteReader {
  public:
    explicit ByteReader(std::span<const std::uint8_t> in) : in_(in) {}

    template <typename T>
        requires std::is_integral_v<T>
    T get() {
        using Unsigned = std::make_unsigned_t<T>;
        if (!take(sizeof(T))) return 0;
        Unsigned value = 0;
        for (std::size_t i = 0; i < sizeof(T); ++i) {
            value = static_cast<Unsigned>(
                value | static_cast<Unsigned>(Unsigned{in_[at_ - sizeof(T) + i]} << (8 * i)));
        }
        return static_cast<T>(value);
    }
    // An enum whose values run from 0 to `last`.
    template <typename E>
        requires std::is_enum_v<E>
    E get_enum(E last) {
        using Underlying = std::underlying_type_t<E>;
        const auto value = get<Underlying>();
        if (value > static_cast<Underlying>(last)) fail();
        return failed_ ? E{} : static_cast<E>(value);
    }
    template <typename IdType>
    IdType get_id() {
        return IdType{get<std::uint64_t>()};
    }
    Token get_token();
    std::uint64_t get_varint(std::uint64_t maximum = UINT64_MAX);
    std::int64_t get_signed_varint();
    std::span<const std::uint8_t> get_raw(std::size_t count);
    std::string get_text(std::size_t maximum);
    std::span<const std::uint8_t> rest() { return get_raw(in_.size() - at_); }

    void fail() { failed_ = true; }
    [[nodiscard]] bool failed() const { return failed_; }
    [[nodiscard]] bool at_end() const { return at_ == in_.size(); }
    [[nodiscard]] std::size_t remaining() const { return in_.size() - at_; }

  private:
    bool take(std::size_t count) {
        if (failed_ || in_.size() - at_ < count) {
            failed_ = true;
            return false;
        }
        at_ += count;
        return true;
    }

    std::span<const std::uint8_t> in_;
    std::size_t at_ = 0;
    bool failed_ = false;
};

}  // namespace mc
