// SPDX-License-Identifier: Apache-2.0
#include "core/ids.hpp"

#include <gtest/gtest.h>

#include <unordered_set>

namespace mc {
namespace {

TEST(Id, IsNoneWhenZero) {
    EXPECT_FALSE(GrantId{});
    EXPECT_TRUE(GrantId{1});
    EXPECT_LT(GrantId{1}, GrantId{2});
    EXPECT_TRUE((std::unordered_set<GrantId>{GrantId{1}, GrantId{2}}.contains(GrantId{2})));
}

TEST(Token, IsWrittenInHexDigits) {
    Token token;
    EXPECT_TRUE(token.is_zero());
    token.bytes = {0x00, 0x01, 0x0a, 0xff, 0x9c};
    EXPECT_FALSE(token.is_zero());
    EXPECT_EQ(token.hex(), "00010aff9c0000000000000000000000");
    EXPECT_EQ(Token::from_hex(token.hex()), token);
}

TEST(Token, IsReadFromLowerCaseHexDigitsOnly) {
    const std::string good(32, 'a');
    EXPECT_TRUE(Token::from_hex(good).has_value());
    for (const std::string& bad :
         {std::string(), std::string(31, 'a'), std::string(33, 'a'), std::string(32, 'A'),
          std::string(32, 'g'), std::string(31, 'a') + ' '}) {
        EXPECT_FALSE(Token::from_hex(bad).has_value()) << bad;
    }
}

TEST(Token, IsRandom) {
    std::unordered_set<Token> seen;
    for (int i = 0; i < 1000; ++i) EXPECT_TRUE(seen.insert(Token::random()).second);
}

TEST(Token, ComparesInConstantTimeAsItComparesOtherwise) {
    const Token token = Token::random();
    EXPECT_TRUE(equal_constant_time(token, token));
    for (std::size_t bit = 0; bit < 128; ++bit) {
        Token other = token;
        other.bytes[bit / 8] = static_cast<std::uint8_t>(other.bytes[bit / 8] ^ (1U << (bit % 8)));
        EXPECT_FALSE(equal_constant_time(token, other));
    }
}

}  // namespace
}  // namespace mc
