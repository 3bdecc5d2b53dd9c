// SPDX-License-Identifier: Apache-2.0
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <limits>
#include <random>

#include "protocol/messages.hpp"

namespace mc {
namespace {

using testing::HasSubstr;

constexpr std::uint64_t kBig = std::numeric_limits<std::uint64_t>::max();
constexpr std::uint32_t kBig32 = std::numeric_limits<std::uint32_t>::max();

Pool pool() {
    Pool pool;
    pool.name = "kv";
    pool.fingerprint = "model";
    pool.memory = {MemoryKind::Type::cuda, 3};
    pool.page_size = 16;
    pool.page_count = 1000;
    pool.null_page = 0;
    pool.planes = {{7, PlaneKind::mla, "bfloat16", 2, 0x7f0000001000, 1152, 36, 18, 2, 2, 9, 5},
                   {8, PlaneKind::aux, "uint8", 1, kBig, kBig, kBig, kBig, kBig, kBig32, 1, 0}};
    return pool;
}

Match match() {
    Match match;
    match.pairs = {{1, 2, 3, 4, 5, 6, 7, 8}, {kBig32, 0, 0, kBig32, 0, 0, 1, 1}};
    match.order = {{Axis::block, Axis::layer, Axis::token, Axis::head}, 16};
    match.token_bytes = 36;
    return match;
}

// One of each kind, with fields at their limits among them.
std::vector<Message> examples() {
    Hello hello;
    hello.instance = Token::random();
    hello.link_token = Token::random();
    hello.address = "[::1]:9000";
    hello.boot_id = std::string(64, 'b');
    hello.same_host_name = std::string(108, 's');
    hello.recv_credits = 4096;
    hello.pools = {pool()};
    Pool without_null = pool();
    without_null.null_page.reset();
    Pool negative_null = pool();
    negative_null.null_page = -1;
    const std::vector<Segment> segments{{0x1000, 64}, {0x1040, 0}, {0x10, kBig - 0x10}};
    const std::vector<std::int32_t> pages{5,
                                          6,
                                          4,
                                          -1,
                                          std::numeric_limits<std::int32_t>::max(),
                                          std::numeric_limits<std::int32_t>::min(),
                                          0};
    const std::vector<TokenRange> ranges{{0, 1}, {1, 7}, {100, kBig32}};
    return {hello,
            PoolAdded{without_null},
            PoolAdded{negative_null},
            Plan{PlanId{kBig}, "kv", match()},
            Recv{GrantId{1},
                 kBig,
                 std::string(kMaxTagBytes, 't'),
                 3,
                 4,
                 kBig32,
                 kBig,
                 true,
                 {{PlanId{1}, ranges}, {PlanId{2}, {{0, 1}}}}},
            Recv{GrantId{1}, 1, "", 0, 1, 0, 0, false, {}},
            Read{GrantId{2}, 1000, 64, true, segments},
            Write{TransferId{3}, 1000, segments, {}},
            WriteGrant{TransferId{3}, GrantId{4}, 4096, true},
            WriteRefused{TransferId{3}, Code::invalid_argument, "no"},
            Known{GrantId{5}},
            Ready{GrantId{6}, 7, 65535, {3, 90}, pages, 0xdeadbeef, kBig},
            Ready{GrantId{6}, kBig32, 0, {0, 0}, {}, 0, 0},
            Data{GrantId{7}, 1, 2, {4, 8}, kBig, {1, 2, 3}},
            Data{GrantId{7}, 0, 0, {0, 0}, 0, {}},
            SliceDigest{GrantId{8}, 1, 2, {4, 8}, kBig},
            Done{GrantId{8}, 2, kBig, kBig32},
            Received{GrantId{9}},
            Fail{GrantId{10}, Code::timeout, std::string(kMaxReasonBytes, 'r')},
            Cancel{GrantId{11}},
            Cancelled{GrantId{12}},
            mc::Rewind{GrantId{13}, kBig32, 4},
            Rewound{GrantId{13}, kBig32},
            Ping{kBig},
            Pong{0},
            Bye{Code::ok, ""},
            Bye{Code::peer_restarted, "bye"},
            Challenge{Token::random(), {}},
            Challenge{Token::random(), std::vector<Token>(kMaxKeys, Token::random())},
            Proof{{1, 2, 255}}};
}

Bytes frame_of(const Message& message) {
    Bytes frame;
    encode(message, frame);
    return frame;
}
std::span<const std::uint8_t> body_of(const Bytes& frame) { return std::span(frame).subspan(4); }

// What is encoded alike is alike: the encoding has one form for each value.
TEST(Messages, EachDecodesToItself) {
    std::vector<bool> seen(std::variant_size_v<Message>);
    for (const Message& message : examples()) {
        SCOPED_TRACE(name_of(message));
        const Bytes frame = frame_of(message);
        const auto length = frame_length(frame);
        ASSERT_TRUE(length.ok() && length->has_value());
        EXPECT_EQ(**length + 4, frame.size());
        const auto decoded = decode(body_of(frame));
        ASSERT_TRUE(decoded.ok()) << decoded.status().to_string();
        ASSERT_TRUE(decoded->has_value());
        EXPECT_EQ((*decoded)->index(), message.index());
        EXPECT_EQ(frame_of(**decoded), frame);
        seen[message.index()] = true;
    }
    EXPECT_EQ(std::count(seen.begin(), seen.end(), false), 0) << "a kind of message is not tested";
}

TEST(Messages, FieldsArriveAsTheyWereSent) {
    const auto back = [](const auto& message) {
        using M = std::decay_t<decltype(message)>;
        return std::get<M>(**decode(body_of(frame_of(message))));
    };
    EXPECT_EQ(back(PoolAdded{pool()}).pool, pool());
    EXPECT_EQ(back(Plan{PlanId{9}, "kv", match()}).match, match());
    const Ready ready = back(Ready{GrantId{6}, 7, 8, {3, 90}, {5, 6, 4, -1}, 11, 12});
    EXPECT_EQ(ready.grant, GrantId{6});
    EXPECT_EQ(ready.epoch, 7U);
    EXPECT_EQ(ready.part, 8U);
    EXPECT_EQ(ready.tokens, (TokenRange{3, 90}));
    EXPECT_EQ(ready.pages, (std::vector<std::int32_t>{5, 6, 4, -1}));
    EXPECT_EQ(ready.guard, 11U);
    EXPECT_EQ(ready.expected, 12U);
    const Recv recv =
        back(Recv{GrantId{1}, 2, "tag", 3, 4, 5, 6, true, {{PlanId{7}, {{8, 9}, {10, 12}}}}});
    EXPECT_EQ(recv.request, 2U);
    EXPECT_EQ(recv.tag, "tag");
    EXPECT_EQ(recv.receiver_index, 3U);
    EXPECT_EQ(recv.receiver_count, 4U);
    EXPECT_EQ(recv.remaining_ms, 5U);
    EXPECT_EQ(recv.segment_bytes, 6U);
    EXPECT_TRUE(recv.verify);
    EXPECT_EQ(recv.parts.at(0).plan, PlanId{7});
    EXPECT_EQ(recv.parts.at(0).wanted, (std::vector<TokenRange>{{8, 9}, {10, 12}}));
    const Read read = back(Read{GrantId{1}, 2, 3, false, {{100, 10}, {110, 5}, {50, 1}}});
    EXPECT_EQ(read.source, (std::vector<Segment>{{100, 10}, {110, 5}, {50, 1}}));
    const Fail fail = back(Fail{GrantId{1}, Code::timeout, "late"});
    EXPECT_EQ(fail.code, Code::timeout);
    EXPECT_EQ(fail.reason, "late");
}

TEST(Messages, NeighbouringPagesCostTwoBytesOrLess) {
    std::vector<std::int32_t> pages;
    for (std::int32_t page = 1000; page < 2000; ++page) pages.push_back(page);
    EXPECT_LT(frame_of(Ready{GrantId{1}, 0, 0, {0, 16000}, pages, 0, 0}).size(), 1100U);
    for (std::size_t i = 0; i < pages.size(); i += 2) pages[i] += 50;
    EXPECT_LT(frame_of(Ready{GrantId{1}, 0, 0, {0, 16000}, pages, 0, 0}).size(), 2100U);
}

TEST(Messages, LongReasonsAreCut) {
    const Bytes frame = frame_of(Fail{GrantId{1}, Code::internal, std::string(100000, 'x')});
    EXPECT_LT(frame.size(), kMaxReasonBytes + 100);
    EXPECT_TRUE(decode(body_of(frame)).ok());
}

TEST(Messages, EachTruncationIsRefused) {
    for (const Message& message : examples()) {
        const Bytes frame = frame_of(message);
        if (std::holds_alternative<Data>(message))
            continue;  // its bytes are the rest, however many
        for (std::size_t size = 4; size < frame.size(); ++size) {
            const auto decoded = decode(body_of(frame).subspan(0, size - 4));
            EXPECT_FALSE(decoded.ok()) << name_of(message) << " of " << size << " bytes";
            EXPECT_EQ(decoded.status().code(), Code::protocol);
        }
    }
}

TEST(Messages, TrailingBytesAreRefused) {
    for (const Message& message : examples()) {
        if (std::holds_alternative<Data>(message)) continue;
        Bytes frame = frame_of(message);
        frame.push_back(0);
        EXPECT_FALSE(decode(body_of(frame)).ok()) << name_of(message);
    }
}

// Under the sanitizers this shows more than it asserts.
TEST(Messages, MutationsNeverCrashAndWhatDecodesEncodesAgain) {
    std::mt19937_64 random(1);
    const auto below = [&](std::size_t end) { return static_cast<std::size_t>(random() % end); };
    const std::vector<Message> messages = examples();
    for (int round = 0; round < 20000; ++round) {
        Bytes frame = frame_of(messages[below(messages.size())]);
        for (std::size_t changes = 1 + below(4); changes > 0; --changes) {
            const std::size_t at = 4 + below(frame.size() - 4);
            switch (below(4)) {
                case 0: frame[at] = static_cast<std::uint8_t>(random()); break;
                case 1: frame[at] ^= static_cast<std::uint8_t>(1U << below(8)); break;
                case 2: frame.insert(frame.begin() + static_cast<std::ptrdiff_t>(at), 0xff); break;
                default:
                    if (frame.size() > 6)
                        frame.erase(frame.begin() + static_cast<std::ptrdiff_t>(at));
            }
        }
        const auto decoded = decode(body_of(frame));
        if (!decoded.ok() || !decoded->has_value()) continue;
        const Bytes again = frame_of(**decoded);
        const auto twice = decode(body_of(again));
        ASSERT_TRUE(twice.ok()) << twice.status().to_string();
        EXPECT_EQ(frame_of(**twice), again);
    }
}

TEST(Messages, NoiseNeverCrashes) {
    std::mt19937_64 random(2);
    for (int round = 0; round < 20000; ++round) {
        Bytes noise(random() % 64);
        for (std::uint8_t& byte : noise) byte = static_cast<std::uint8_t>(random());
        if (!noise.empty()) noise[0] = static_cast<std::uint8_t>(random() % 24);
        (void)decode(noise);
        (void)frame_length(noise);
    }
}

TEST(Messages, FramesAreBounded) {
    EXPECT_FALSE(*frame_length(Bytes{1, 2, 3}));
    EXPECT_EQ(**frame_length(Bytes{0, 0, 0, 1}), kMaxFrameBytes);
    const auto too_long = frame_length(Bytes{1, 0, 0, 1});
    ASSERT_FALSE(too_long.ok());
    EXPECT_THAT(too_long.status().message(), HasSubstr("exceeds the limit"));
}

TEST(Messages, UnknownOnesAreSkippedIfTheyAreOptional) {
    EXPECT_FALSE(decode(Bytes{200, 0, 1, 2, 3}).ok());
    const auto skipped = decode(Bytes{200, 1, 1, 2, 3});
    ASSERT_TRUE(skipped.ok());
    EXPECT_FALSE(skipped->has_value());
    EXPECT_FALSE(decode(Bytes{0, 0}).ok());
    EXPECT_FALSE(decode(Bytes{}).ok());
    EXPECT_FALSE(decode(Bytes{1}).ok());
}

// A message with some fields set.
template <typename M>
M with(const std::function<void(M&)>& set) {
    M message{};
    set(message);
    return message;
}

// Values that a decoder must not take.
TEST(Messages, RefusedValues) {
    const auto refused = [](const Message& message) {
        return !decode(body_of(frame_of(message))).ok();
    };
    const auto refused_recv = [&](const std::function<void(Recv&)>& set) {
        return refused(with<Recv>(set));
    };
    EXPECT_FALSE(refused_recv([](Recv&) {}));
    EXPECT_TRUE(refused_recv([](Recv& recv) { recv.receiver_index = 1; }));
    EXPECT_TRUE(refused_recv([](Recv& recv) { recv.receiver_count = 0; }));
    EXPECT_TRUE(refused_recv([](Recv& recv) { recv.tag.resize(kMaxTagBytes + 1); }));
    EXPECT_TRUE(refused_recv([](Recv& recv) { recv.parts.resize(kMaxParts + 1); }));
    EXPECT_TRUE(refused_recv([](Recv& recv) { recv.parts = {{PlanId{1}, {{4, 8}, {7, 9}}}}; }));
    EXPECT_TRUE(refused_recv([](Recv& recv) { recv.parts = {{PlanId{1}, {{4, 4}}}}; }));
    // Not only of each part: else one RECV could cost a thousand times the limit.
    std::vector<TokenRange> many;
    for (std::uint32_t i = 0; i < kMaxRanges / 2 + 1; ++i) many.push_back({2 * i, 2 * i + 1});
    EXPECT_FALSE(refused_recv([&](Recv& recv) { recv.parts = {{PlanId{1}, many}}; }));
    EXPECT_TRUE(
        refused_recv([&](Recv& recv) { recv.parts = {{PlanId{1}, many}, {PlanId{2}, many}}; }));

    const auto refused_source = [&](std::vector<Segment> source) {
        return refused(with<Read>([&](Read& read) { read.source = std::move(source); }));
    };
    EXPECT_FALSE(refused_source({{kBig, 0}}));
    EXPECT_TRUE(refused_source({{kBig, 1}})) << "wraps around";
    EXPECT_TRUE(refused_source(std::vector<Segment>(kMaxSegments + 1)));
    EXPECT_TRUE(
        refused(with<Ready>([](Ready& ready) { ready.pages.resize(kMaxPagesPerMessage + 1); })));
    EXPECT_TRUE(refused(Fail{GrantId{1}, Code::ok, "a success in the end"}));
    EXPECT_TRUE(refused(WriteRefused{TransferId{1}, Code::ok, "likewise"}));
    EXPECT_TRUE(refused(Fail{GrantId{1}, static_cast<Code>(200), "no such code"}));
}

// A count costs nothing until what it counts has come.
TEST(Messages, CountsWithoutContentsAreRefused) {
    Bytes frame = frame_of(Ready{});
    const std::size_t count_at = frame.size() - 17;  // in front of two words
    ASSERT_EQ(frame[count_at], 0);
    frame.resize(count_at);
    ByteWriter(frame).put_varint(kMaxPagesPerMessage);
    EXPECT_FALSE(decode(body_of(frame)).ok());
}

}  // namespace
}  // namespace mc
