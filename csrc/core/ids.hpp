// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <compare>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>

namespace mc {

// An integer that cannot be mistaken for another kind of integer. Zero means "none".
template <typename Tag>
struct Id {
    std::uint64_t value = 0;

    explicit operator bool() const { return value != 0; }
    auto operator<=>(const Id&) const = default;
};

using TransferId = Id<struct TransferTag>;  // one send, recv, write or read of this engine
using GrantId = Id<struct GrantTag>;  // what one recv gave one sender; made by the receiver, unique
                                      // in its engine
using SessionId = Id<struct SessionTag>;  // one connection to a peer; unique in this engine
using PlanId =
    Id<struct PlanTag>;  // how two pools pair; made by the receiver, unique in its session

// Sixteen random bytes: one incarnation of an engine, or a one-time secret between two of them.
struct Token {
    std::array<std::uint8_t, 16> bytes{};

    auto operator<=>(const Token&) const = default;
    [[nodiscard]] bool is_zero() const;
    [[nodiscard]] std::string hex() const;

    static Token random();  // from the kernel's generator; ends the process if that is unavailable
    static std::optional<Token> from_hex(std::string_view text);
};
using InstanceId = Token;

// Comparison whose time does not depend on where two secrets first differ.
bool equal_constant_time(const Token& left, const Token& right);

}  // namespace mc

template <typename Tag>
struct std::hash<mc::Id<Tag>> {
    std::size_t operator()(const mc::Id<Tag>& id) const noexcept {
        return std::hash<std::uint64_t>{}(id.value);
    }
};

template <>
struct std::hash<mc::Token> {
    std::size_t operator()(const mc::Token& token) const noexcept;
};
