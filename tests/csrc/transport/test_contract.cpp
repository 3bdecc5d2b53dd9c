// SPDX-License-Identifier: Apache-2.0
// What every path promises, said once for all of them, with the sender in a thread of this process
// and in a process of its own.
#include <gtest/gtest.h>

#include <csignal>
#include <string>

#include <sys/wait.h>

#include "transport/support/rig.hpp"

namespace mc::testing {
namespace {

using Param = std::tuple<PathKind, Far>;

std::string name_of(const ::testing::TestParamInfo<Param>& info) {
    return std::string(to_string(std::get<0>(info.param))) +
           (std::get<1>(info.param) == Far::thread ? "_thread" : "_process");
}

Parts same(std::size_t count, Pages::Shape shape) {
    return {std::vector(count, shape), std::vector(count, shape)};
}

class Contract : public ::testing::TestWithParam<Param> {
  protected:
    [[nodiscard]] PathKind kind() const { return std::get<0>(GetParam()); }
    [[nodiscard]] Far where() const { return std::get<1>(GetParam()); }
};
class PushContract : public Contract {};
class PullContract : public Contract {};
class ProcessContract : public Contract {};

TEST_P(Contract, MovesEveryByteWhateverTheShapes) {
    // Sizes around cache lines, vectors, staging buffers and batches; both sides cut differently.
    Parts parts;
    const std::vector<std::pair<Pages::Shape, Pages::Shape>> shapes = {
        {{1, 1}, {1, 1}},
        {{4096, 1}, {1, 4096}},
        {{9000, 7}, {7, 9000}},
        {{3000, 64}, {3000, 64}},
        {{5000, 256}, {1250, 1024}},
        {{2000, 1000}, {2000, 1000}},
        {{600, 4096}, {600, 4096}},
        {{300, 4096}, {1200, 1024}},
        {{40, 65536}, {40, 65536}},
        {{5, 1 << 20, true}, {40, 131072}},
        {{11, 999'983}, {11, 999'983}},
        {{3, 3'000'000, true}, {3, 3'000'000, true}},
    };
    for (const auto& [source, destination] : shapes) {
        parts.sources.push_back(source);
        parts.destinations.push_back(destination);
    }
    Rig rig(kind(), where(), parts);
    for (std::uint16_t part = 0; part < shapes.size(); ++part) {
        rig.grant(part + 1U);
        ASSERT_TRUE(rig.move({rig.piece(part + 1U, part)})) << "part " << part;
        EXPECT_TRUE(rig.destination(part).holds(part)) << "part " << part;
        EXPECT_TRUE(rig.destination(part).untouched_but(0, rig.destination(part).bytes()));
    }
}

TEST_P(Contract, MovesOnlyThePieceThatWasAskedFor) {
    Rig rig(kind(), where(), same(1, {500, 1000}));
    rig.grant(1);
    const Piece whole = rig.piece(1, 0);
    ASSERT_TRUE(rig.move({Rig::cut(whole, 12'345, 1)}));
    EXPECT_TRUE(rig.destination(0).holds(0, 12'345, 1));
    EXPECT_TRUE(rig.destination(0).untouched_but(12'345, 1));
    rig.destination(0).clear();
    ASSERT_TRUE(rig.move({Rig::cut(whole, 777, 300'001)}));
    EXPECT_TRUE(rig.destination(0).holds(0, 777, 300'001));
    EXPECT_TRUE(rig.destination(0).untouched_but(777, 300'001));
}

TEST_P(Contract, PiecesOfOneSliceMayComeInAnyOrder) {
    Rig rig(kind(), where(), same(1, {1000, 1024}));
    rig.grant(1);
    const Piece whole = rig.piece(1, 0);
    std::vector<Piece> pieces;
    for (std::uint64_t offset : {700'000U, 0U, 350'001U}) {
        const std::uint64_t end = offset == 700'000U ? whole.length
                                  : offset == 0      ? 350'001U
                                                     : 700'000U;
        pieces.push_back(Rig::cut(whole, offset, end - offset));
    }
    ASSERT_TRUE(rig.move(pieces));
    EXPECT_TRUE(rig.destination(0).holds(0));
}

TEST_P(Contract, ManyOutstandingTransfersOfManySmallBlocks) {
    constexpr std::size_t kTransfers = 64;
    Rig rig(kind(), where(), same(kTransfers, {1024, 1024}));
    for (int round = 0; round < 2; ++round) {
        std::vector<Piece> pieces;
        for (std::uint16_t part = 0; part < kTransfers; ++part) {
            rig.grant(part + 1U);
            rig.destination(part).clear();
            pieces.push_back(rig.piece(part + 1U, part));
        }
        ASSERT_TRUE(rig.move(pieces));
        for (std::uint16_t part = 0; part < kTransfers; ++part) {
            EXPECT_TRUE(rig.destination(part).holds(part)) << "part " << part;
        }
    }
}

TEST_P(Contract, AnEmptyJobSucceeds) {
    Rig rig(kind(), where(), same(1, {10, 100}));
    rig.grant(1);
    EXPECT_TRUE(rig.move({Rig::cut(rig.piece(1, 0), 0, 0), Rig::cut(rig.piece(1, 0), 1000, 0)}));
    EXPECT_TRUE(rig.destination(0).untouched());
}

TEST_P(Contract, ReportsHowMuchMoved) {
    Rig rig(kind(), where(), same(1, {300, 512}));
    rig.grant(1);
    rig.start(rig.piece(1, 0));
    const std::vector<JobResult> results = rig.results();
    ASSERT_EQ(results.size(), 1U);
    EXPECT_EQ(results[0].code, Code::ok);
    EXPECT_EQ(results[0].moved.bytes, 300U * 512U);
    EXPECT_EQ(results[0].moved.spans, 300U);
    EXPECT_TRUE(rig.settle());
}

TEST_P(Contract, AJobOfAClosedSourceFailsAndOthersGoOn) {
    Rig rig(kind(), where(), same(2, {200, 5000}));
    rig.grant(1);
    rig.far().close_hold();
    rig.start(rig.piece(1, 0));
    const std::vector<JobResult> results = rig.results();
    ASSERT_EQ(results.size(), 1U);
    EXPECT_EQ(results[0].code, Code::aborted);
    EXPECT_EQ(results[0].moved.bytes, 0U);
    EXPECT_TRUE(rig.settle());
    EXPECT_EQ(rig.failures(), 0U);
}

TEST_P(Contract, AJobOfAnEarlierEpochFailsAndOneOfThePresentEpochSucceeds) {
    Rig rig(kind(), where(), same(1, {200, 5000}));
    const auto sink = rig.grant(1);
    rig.far().advance(3);
    rig.start(rig.piece(1, 0));
    std::vector<JobResult> results = rig.results();
    ASSERT_EQ(results.size(), 1U);
    EXPECT_EQ(results[0].code, Code::aborted);
    rig.settle();

    sink->hold().advance(3);
    Piece piece = rig.piece(1, 0);
    piece.epoch = 3;
    ASSERT_TRUE(rig.move({piece}));
    EXPECT_TRUE(rig.destination(0).holds(0));
}

TEST_P(Contract, TakingSourcePagesBackMidwayNeverShipsTheNextOwnersBytes) {
    // While 64 jobs are under way the sender takes its pages back and gives them to somebody else.
    constexpr std::uint16_t kParts = 64;
    for (const std::uint64_t block : {1000U, 40'000U}) {
        Rig rig(kind(), where(), same(kParts, {400'000 / block, block}));
        for (std::uint16_t part = 0; part < kParts; ++part) {
            rig.grant(part + 1U);
            rig.start(rig.piece(part + 1U, part));
        }
        rig.far().close_hold();
        rig.far().refill(1000);
        const std::vector<JobResult> results = rig.results();
        ASSERT_EQ(results.size(), kParts);
        EXPECT_TRUE(rig.settle()) << "the stream is broken";
        EXPECT_EQ(rig.failures(), 0U);
        for (std::uint16_t part = 0; part < kParts; ++part) {
            if (results[part].code != Code::ok) continue;
            EXPECT_TRUE(rig.destination(part).holds(part)) << "part " << part;
        }
    }
}

TEST_P(Contract, NothingIsWrittenOnceAClosedDestinationIsIdle) {
    constexpr std::uint16_t kParts = 8;
    for (const std::uint64_t block : {1000U, 100'000U}) {
        Rig rig(kind(), where(), same(kParts, {3'000'000 / block, block}));
        for (std::uint16_t part = 0; part < kParts; ++part) rig.grant(part + 1U);
        for (std::uint16_t part = 0; part < kParts; ++part) {
            rig.start(rig.piece(part + 1U, part));
        }
        // The first ones are revoked while bytes arrive; their pages have a new owner at once.
        for (std::uint16_t part = 0; part < kParts / 2; ++part) {
            std::promise<void> idle;
            rig.grant(part + 1U)->hold().close([&] { idle.set_value(); });
            idle.get_future().wait();
            rig.destination(part).clear();
        }
        rig.results();
        ASSERT_TRUE(rig.settle());
        EXPECT_EQ(rig.failures(), 0U);
        for (std::uint16_t part = 0; part < kParts; ++part) {
            if (part < kParts / 2) {
                EXPECT_TRUE(rig.destination(part).untouched()) << "part " << part;
            } else {
                EXPECT_TRUE(rig.destination(part).holds(part)) << "part " << part;
            }
        }
    }
}

TEST_P(Contract, ADestinationOfAnotherEpochGetsNothing) {
    Rig rig(kind(), where(), same(1, {100, 10'000}));
    const auto sink = rig.grant(1);
    sink->hold().advance(1);
    rig.start(rig.piece(1, 0));
    rig.results();
    ASSERT_TRUE(rig.settle());
    EXPECT_TRUE(rig.destination(0).untouched());
    EXPECT_TRUE(sink->pieces.empty());
    EXPECT_EQ(rig.failures(), 0U);
}

TEST_P(Contract, ClosingFailsWhatIsQueuedAndWhatComesLater) {
    Rig rig(kind(), where(), same(1, {10, 10}));
    std::vector<Code> codes;
    in_loop(rig.loop(), [&] {
        auto hold = std::make_shared<Hold>();
        const auto done = [&](Status status, Moved) { codes.push_back(status.code()); };
        const auto submit = [&] {
            const auto slice = rig.destination(0).slice();
            if (rig.pushes()) {
                rig.path().push({rig.piece(9, 0), slice, hold, done});
            } else {
                rig.path().pull({rig.piece(9, 0), slice, slice, hold, 0, 0, done});
            }
        };
        submit();
        EXPECT_EQ(rig.path().outstanding(), 100U);
        rig.path().close(Status(Code::peer_restarted, "because"));
        rig.path().close(Status(Code::internal, "again"));
        submit();
    });
    EXPECT_EQ(codes, (std::vector{Code::peer_restarted, Code::peer_restarted}));
    EXPECT_EQ(rig.path().outstanding(), 0U);
    EXPECT_EQ(rig.failures(), 0U);
}

TEST_P(PushContract, RefusesToPull) {
    Rig rig(kind(), where(), same(1, {10, 10}));
    Status outcome;
    in_loop(rig.loop(), [&] {
        Pull job;
        job.done = [&](Status status, Moved) { outcome = status; };
        rig.path().pull(std::move(job));
    });
    EXPECT_EQ(outcome.code(), Code::unsupported);
}

TEST_P(PushContract, AnEndFollowsAllBatchesOfItsGrantAndTellsTheirBytes) {
    Rig rig(kind(), where(), same(3, {1000, 2000}));
    for (std::uint64_t grant = 1; grant <= 3; ++grant) {
        rig.grant(grant);
        rig.start(rig.piece(grant, static_cast<std::uint16_t>(grant - 1)));
        rig.start(Rig::cut(rig.piece(grant, 0), 100, 1));
    }
    rig.results();
    ASSERT_TRUE(rig.settle());
    ASSERT_EQ(rig.sinks().ends.size(), 3U);
    for (const TestSinks::End& end : rig.sinks().ends) {
        EXPECT_EQ(end.bytes, 2'000'001U);
        EXPECT_EQ(end.placed_before, 2'000'001U);
    }
}

TEST_P(PushContract, AnEndTellsTheBytesOfItsEpochOnly) {
    Rig rig(kind(), where(), same(1, {100, 1000}));
    const auto sink = rig.grant(1);
    ASSERT_TRUE(rig.move({rig.piece(1, 0)}));
    rig.far().advance(1);
    sink->hold().advance(1);
    Piece piece = Rig::cut(rig.piece(1, 0), 0, 77);
    piece.epoch = 1;
    ASSERT_TRUE(rig.move({piece}));
    ASSERT_EQ(rig.sinks().ends.size(), 2U);
    EXPECT_EQ(rig.sinks().ends[0].bytes, 100'000U);
    EXPECT_EQ(rig.sinks().ends[1].bytes, 77U);
    EXPECT_EQ(rig.sinks().ends[1].epoch, 1U);
}

TEST_P(PushContract, ShortTransfersDoNotWaitBehindLongOnes) {
    Rig rig(kind(), where(),
            {{{1, 40'000'000, true}, {1, 1000}}, {{1, 40'000'000, true}, {1, 1000}}});
    const auto long_one = rig.grant(1);
    const auto short_one = rig.grant(2);
    std::uint64_t long_bytes_before = UINT64_MAX;
    short_one->on_placed = [&](const Piece&) { long_bytes_before = long_one->bytes; };
    rig.start(rig.piece(1, 0));
    rig.start(rig.piece(2, 1));
    rig.results();
    ASSERT_TRUE(rig.settle());
    EXPECT_LT(long_bytes_before, 30'000'000U);
    EXPECT_TRUE(rig.destination(0).holds(0));
}

TEST_P(PushContract, BatchesForUnknownGrantsAreDropped) {
    Rig rig(kind(), where(), same(2, {300, 7000}));
    rig.grant(2);  // nobody knows grant 1
    ASSERT_TRUE(rig.move({rig.piece(1, 0), rig.piece(2, 1)}));
    EXPECT_TRUE(rig.destination(0).untouched());
    EXPECT_TRUE(rig.destination(1).holds(1));
}

TEST_P(PushContract, RefusedSlicesAreDropped) {
    Rig rig(kind(), where(), {{{50, 7000}, {50, 7000}}, {{50, 7000}, {50, 7000}}});
    rig.grant(1);
    rig.sinks().add(GrantId{2}, {});  // has no parts at all
    ASSERT_TRUE(rig.move({rig.piece(2, 0), rig.piece(1, 1)}));
    EXPECT_TRUE(rig.destination(0).untouched());
    EXPECT_TRUE(rig.destination(1).holds(1));
}

TEST_P(PushContract, BytesBeyondTheSliceAreDropped) {
    // The sender's part is longer than the receiver's.
    Rig rig(kind(), where(), {{{100, 10'000}, {10, 100}}, {{10, 10'000}, {10, 100}}});
    rig.grant(1);
    rig.grant(2);
    Piece too_long = rig.piece(1, 0);
    too_long.offset = 99'000;
    too_long.length = 2000;
    Piece far_off = rig.piece(1, 0);
    far_off.offset = 900'000;
    ASSERT_TRUE(rig.move({too_long, far_off, rig.piece(2, 1)}));
    EXPECT_TRUE(rig.destination(0).untouched());
    EXPECT_TRUE(rig.destination(1).holds(1));
}

TEST_P(PushContract, CallbacksMayCloseThePath) {
    Rig rig(kind(), where(), same(1, {1000, 3000}));
    const auto sink = rig.grant(1);
    sink->on_placed = [&](const Piece&) { rig.path().close(Status(Code::aborted, "enough")); };
    rig.start(rig.piece(1, 0));
    rig.results();
    EXPECT_EQ(rig.failures(), 0U);
}

TEST_P(PullContract, RefusesToPush) {
    Rig rig(kind(), where(), same(1, {10, 10}));
    Status outcome;
    in_loop(rig.loop(), [&] {
        Push job;
        job.done = [&](Status status, Moved) { outcome = status; };
        rig.path().push(std::move(job));
    });
    EXPECT_EQ(outcome.code(), Code::unsupported);
}

TEST_P(ProcessContract, ADeadPeerFailsThePathOnceWithTheReason) {
    Rig rig(kind(), where(), same(1, {1000, 3000}));
    rig.grant(1);
    rig.far().die();
    ::siginfo_t info{};
    ::waitid(P_PID, static_cast<id_t>(rig.far().pid()), &info, WEXITED | WNOWAIT);
    if (!rig.pushes()) {
        rig.start(rig.piece(1, 0));
        const std::vector<JobResult> results = rig.results();
        ASSERT_EQ(results.size(), 1U);
        EXPECT_EQ(results[0].code, Code::peer_lost);
    }
    Status reason;
    ASSERT_TRUE(rig.wait_for_failure(reason));
    EXPECT_EQ(reason.code(), Code::peer_lost);
    EXPECT_FALSE(reason.message().empty());
    in_loop(rig.loop(), [] {});
    EXPECT_EQ(rig.failures(), 1U);
}

TEST(CmaPath, NeedsNoHelpFromAStoppedPeer) {
    Rig rig(PathKind::cma, Far::process, same(1, {1000, 3000}));
    rig.grant(1);
    ASSERT_EQ(::kill(rig.far().pid(), SIGSTOP), 0);
    EXPECT_TRUE(rig.move({rig.piece(1, 0)}));
    EXPECT_TRUE(rig.destination(0).holds(0));
}

const auto kEveryPath =
    ::testing::Values(Param{PathKind::tcp, Far::thread}, Param{PathKind::tcp, Far::process},
                      Param{PathKind::shm, Far::thread}, Param{PathKind::shm, Far::process},
                      Param{PathKind::cma, Far::thread}, Param{PathKind::cma, Far::process},
                      Param{PathKind::local, Far::thread});
const auto kPushPaths =
    ::testing::Values(Param{PathKind::tcp, Far::thread}, Param{PathKind::tcp, Far::process},
                      Param{PathKind::shm, Far::thread}, Param{PathKind::shm, Far::process});
const auto kPullPaths =
    ::testing::Values(Param{PathKind::cma, Far::process}, Param{PathKind::local, Far::thread});
const auto kProcessPaths =
    ::testing::Values(Param{PathKind::tcp, Far::process}, Param{PathKind::shm, Far::process},
                      Param{PathKind::cma, Far::process});

INSTANTIATE_TEST_SUITE_P(Paths, Contract, kEveryPath, name_of);
INSTANTIATE_TEST_SUITE_P(Paths, PushContract, kPushPaths, name_of);
INSTANTIATE_TEST_SUITE_P(Paths, PullContract, kPullPaths, name_of);
INSTANTIATE_TEST_SUITE_P(Paths, ProcessContract, kProcessPaths, name_of);

}  // namespace
}  // namespace mc::testing
