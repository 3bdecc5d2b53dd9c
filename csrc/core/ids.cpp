// SPDX-License-Identifier: Apache-2.0
#include "core/ids.hpp"

#include <sys/random.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>

namespace mc {

bool Token::is_zero() const { return *this == Token{}; }

std::string Token::hex() const {
    static constexpr char kDigits[] = "0123456789abcdef";
    std::string text;
    text.reserve(bytes.size() * 2);
    for (std::uint8_t byte : bytes) {
        text.push_back(kDigits[byte >> 4]);
        text.push_back(kDigits[byte & 15]);
    }
    return text;
}

Token Token::random() {
    Token token;
    std::size_t filled = 0;
    while (filled < token.bytes.size()) {
        const ssize_t count =
            ::getrandom(token.bytes.data() + filled, token.bytes.size() - filled, 0);
        if (count > 0) {
            filled += static_cast<std::size_t>(count);
        } else if (errno != EINTR) {
            std::abort();  // without randomness neither identity nor secrecy holds
        }
    }
    return token;
}

std::optional<Token> Token::from_hex(std::string_view text) {
    Token token;
    if (text.size() != token.bytes.size() * 2) return std::nullopt;
    const auto digit = [](char character) -> int {
        if (character >= '0' && character <= '9') return character - '0';
        if (character >= 'a' && character <= 'f') return character - 'a' + 10;
        return -1;
    };
    for (std::size_t i = 0; i < token.bytes.size(); ++i) {
        const int high = digit(text[2 * i]);
        const int low = digit(text[2 * i + 1]);
        if (high < 0 || low < 0) return std::nullopt;
        token.bytes[i] = static_cast<std::uint8_t>(high * 16 + low);
    }
    return token;
}

bool equal_constant_time(const Token& left, const Token& right) {
    unsigned difference = 0;
    for (std::size_t i = 0; i < left.bytes.size(); ++i) {
        difference |= static_cast<unsigned>(left.bytes[i] ^ right.bytes[i]);
    }
    return difference == 0;
}

}  // namespace mc

std::size_t std::hash<mc::Token>::operator()(const mc::Token& token) const noexcept {
    std::size_t value = 0;
    static_assert(sizeof(value) <= sizeof(token.bytes));
    std::memcpy(&value, token.bytes.data(), sizeof(value));  // already uniformly random
    return value;
}
