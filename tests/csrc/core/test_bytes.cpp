// SPDX-License-Identifier: Apache-2.0
#include "core/bytes.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>

namespace mc {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

enum class Color : std::uint8_t { red, green, blue };

template <typename Put>
Bytes written(Put put) {
    Bytes bytes;
    ByteWriter writer(bytes);
    put(writer);
    return bytes;
}

TEST(ByteWriter, WritesIntegersInLittleEndian) {
    EXPECT_THAT(written([](ByteWriter& w) { w.put(std::uint8_t{0xab}); }), ElementsAre(0xab));
    EXPECT_THAT(written([](ByteWriter& w) { w.put(std::uint16_t{0x1234}); }),
                ElementsAre(0x34, 0x12));
    EXPECT_THAT(written([](ByteWriter& w) { w.put(std::uint32_t{0x12345678}); }),
                ElementsAre(0x78, 0x56, 0x34, 0x12));
    EXPECT_THAT(written([](ByteWriter& w) { w.put(std::int32_t{-2}); }),
                ElementsAre(0xfe, 0xff, 0xff, 0xff));
    EXPECT_THAT(written([](ByteWriter& w) { w.put(Color::blue); }), ElementsAre(2));
    EXPECT_THAT(written([](ByteWriter& w) { w.put(GrantId{0x0102}); }),
                ElementsAre(2, 1, 0, 0, 0, 0, 0, 0));
}

TEST(ByteWriter, WritesSmallNumbersInFewBytes) {
    EXPECT_THAT(written([](ByteWriter& w) { w.put_varint(0); }), ElementsAre(0));
    EXPECT_THAT(written([](ByteWriter& w) { w.put_varint(127); }), ElementsAre(127));
    EXPECT_THAT(written([](ByteWriter& w) { w.put_varint(128); }), ElementsAre(0x80, 1));
    EXPECT_THAT(written([](ByteWriter& w) { w.put_signed_varint(-1); }), ElementsAre(1));
    EXPECT_THAT(written([](ByteWriter& w) { w.put_signed_varint(1); }), ElementsAre(2));
    EXPECT_THAT(written([](ByteWriter& w) { w.put_text("ab"); }), ElementsAre(2, 'a', 'b'));
}

TEST(ByteReader, ReadsWhatWasWritten) {
    constexpr auto kMax = std::numeric_limits<std::uint64_t>::max();
    constexpr auto kLow = std::numeric_limits<std::int64_t>::min();
    constexpr auto kHigh = std::numeric_limits<std::int64_t>::max();
    const Token token = Token::random();
    const Bytes bytes = written([&](ByteWriter& w) {
        w.put(std::uint64_t{kMax});
        w.put(std::int16_t{-3});
        w.put(Color::green);
        w.put(SessionId{7});
        w.put(token);
        for (const std::uint64_t value : {std::uint64_t{0}, std::uint64_t{300}, kMax})
            w.put_varint(value);
        for (const std::int64_t value : {kLow, std::int64_t{-1}, std::int64_t{0}, kHigh})
            w.put_signed_varint(value);
        w.put_text("name");
        w.put_text("");
        w.put(std::uint8_t{9});
    });
    ByteReader reader(bytes);
    EXPECT_EQ(reader.get<std::uint64_t>(), kMax);
    EXPECT_EQ(reader.get<std::int16_t>(), -3);
    EXPECT_EQ(reader.get_enum(Color::blue), Color::green);
    EXPECT_EQ(reader.get_id<SessionId>(), SessionId{7});
    EXPECT_EQ(reader.get_token(), token);
    EXPECT_EQ(reader.get_varint(), 0U);
    EXPECT_EQ(reader.get_varint(300), 300U);
    EXPECT_EQ(reader.get_varint(), kMax);
    EXPECT_EQ(reader.get_signed_varint(), kLow);
    EXPECT_EQ(reader.get_signed_varint(), -1);
    EXPECT_EQ(reader.get_signed_varint(), 0);
    EXPECT_EQ(reader.get_signed_varint(), kHigh);
    EXPECT_EQ(reader.get_text(4), "name");
    EXPECT_EQ(reader.get_text(0), "");
    EXPECT_EQ(reader.remaining(), 1U);
    EXPECT_THAT(reader.rest(), ElementsAre(9));
    EXPECT_TRUE(reader.at_end());
    EXPECT_FALSE(reader.failed());
}

// Reads one value of each kind; returns whether the reader failed.
template <typename Get>
[[gnu::noinline]] bool fails(const Bytes& bytes, Get get) {
    ByteReader reader(bytes);
    get(reader);
    return reader.failed();
}

TEST(ByteReader, FailsWhereBytesAreMissing) {
    for (std::size_t count = 0; count < 8; ++count) {
        EXPECT_TRUE(
            fails(Bytes(count), [](ByteReader& r) { EXPECT_EQ(r.get<std::uint64_t>(), 0U); }));
    }
    EXPECT_TRUE(fails(Bytes(15), [](ByteReader& r) { EXPECT_TRUE(r.get_token().is_zero()); }));
    EXPECT_TRUE(fails({0x80}, [](ByteReader& r) { EXPECT_EQ(r.get_varint(), 0U); }));
    EXPECT_TRUE(fails({3, 'a', 'b'}, [](ByteReader& r) { EXPECT_EQ(r.get_text(10), ""); }));
    EXPECT_TRUE(fails({1}, [](ByteReader& r) {
        EXPECT_THAT(r.get_raw(std::numeric_limits<std::size_t>::max()), IsEmpty());
    }));
}

TEST(ByteReader, FailsWhereValuesAreOutOfRange) {
    EXPECT_TRUE(fails({3}, [](ByteReader& r) { EXPECT_EQ(r.get_enum(Color::blue), Color::red); }));
    EXPECT_TRUE(fails({5}, [](ByteReader& r) { EXPECT_EQ(r.get_varint(4), 0U); }));
    EXPECT_TRUE(fails({3, 'a', 'b', 'c'}, [](ByteReader& r) { EXPECT_EQ(r.get_text(2), ""); }));
    // Ten bytes of seven bits hold 70; the last six must be zero, and there is no eleventh byte.
    Bytes too_large(10, 0xff);
    too_large[9] = 2;
    EXPECT_TRUE(fails(too_large, [](ByteReader& r) { EXPECT_EQ(r.get_varint(), 0U); }));
    EXPECT_TRUE(fails(Bytes(11, 0x80), [](ByteReader& r) { EXPECT_EQ(r.get_varint(), 0U); }));
}

TEST(ByteReader, StaysFailed) {
    const Bytes bytes{5, 1, 2, 3, 4, 5, 6, 7, 8};
    ByteReader reader(bytes);
    (void)reader.get_varint(4);
    EXPECT_TRUE(reader.failed());
    EXPECT_EQ(reader.get<std::uint32_t>(), 0U);
    EXPECT_EQ(reader.get_varint(), 0U);
    EXPECT_EQ(reader.get_text(100), "");
    EXPECT_THAT(reader.rest(), IsEmpty());
    EXPECT_TRUE(reader.failed());
}

}  // namespace
}  // namespace mc
