// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <cstring>
#include <set>

#include "transport/cma/guard.hpp"

namespace mc {
namespace {

std::uint64_t word_at(std::uint64_t address) {
    std::uint64_t value = 0;
    std::memcpy(&value, reinterpret_cast<const void*>(address), sizeof(value));
    return value;
}

TEST(Guard, HoldsTheValueOfItsEpochUntilRevoked) {
    Guard guard(nullptr);
    EXPECT_EQ(word_at(guard.address()), guard.expected(0));
    guard.advance(7);
    EXPECT_EQ(word_at(guard.address()), guard.expected(7));
    EXPECT_NE(guard.expected(0), guard.expected(7));
    guard.revoke();
    EXPECT_NE(word_at(guard.address()), guard.expected(7));
    guard.advance(8);
    EXPECT_NE(word_at(guard.address()), guard.expected(8)) << "revoked for good";
}

TEST(Guard, TheWordOutlivesItAndNeverHoldsItsValueAgain) {
    std::uint64_t address = 0;
    std::uint64_t expected = 0;
    {
        const Guard guard(nullptr);
        address = guard.address();
        expected = guard.expected(0);
    }
    EXPECT_NE(word_at(address), expected);
    std::set<std::uint64_t> seen{expected};
    for (int i = 0; i < 1000; ++i) {
        const Guard next(nullptr);
        EXPECT_TRUE(seen.insert(next.expected(0)).second);
        EXPECT_EQ(next.address(), address) << "words are used again";
    }
}

TEST(Guard, ManyAtOnceHaveWordsOfTheirOwn) {
    std::vector<std::unique_ptr<Guard>> guards;
    std::set<std::uint64_t> addresses;
    for (int i = 0; i < 5000; ++i) {
        guards.push_back(std::make_unique<Guard>(nullptr));
        EXPECT_TRUE(addresses.insert(guards.back()->address()).second);
    }
    for (const auto& guard : guards) EXPECT_EQ(word_at(guard->address()), guard->expected(0));
}

TEST(Guard, FindsTheHoldOnlyWhileItIsValid) {
    const auto hold = std::make_shared<Hold>();
    Guard guard(hold);
    EXPECT_EQ(Guard::find_hold(guard.address(), guard.expected(0)), hold);
    EXPECT_EQ(Guard::find_hold(guard.address(), guard.expected(1)), nullptr);
    EXPECT_EQ(Guard::find_hold(guard.address() + 8, guard.expected(0)), nullptr);
    EXPECT_EQ(Guard::find_hold(16, 0), nullptr) << "not an address of ours: never read";
    guard.revoke();
    EXPECT_EQ(Guard::find_hold(guard.address(), guard.expected(0)), nullptr);
}

}  // namespace
}  // namespace mc
