// SPDX-License-Identifier: Apache-2.0
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <cstring>
#include <random>
#include <thread>

#include "transport/batch.hpp"
#include "transport/shm/ring.hpp"
#include "transport/shm/shm_lane.hpp"
#include "transport/support/links.hpp"
#include "transport/support/near_side.hpp"
#include "transport/support/pages.hpp"

namespace mc::testing {
namespace {

constexpr std::size_t kCapacity = RingMemory::kSmallest;

FileDescriptor make_memory(std::size_t bytes, int seals) {
    FileDescriptor memory(::memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING));
    EXPECT_EQ(::ftruncate(memory.get(), static_cast<off_t>(bytes)), 0);
    EXPECT_EQ(::fcntl(memory.get(), F_ADD_SEALS, seals), 0);
    return memory;
}

TEST(RingMemory, MapsTheRingTwice) {
    auto memory = RingMemory::create(kCapacity);
    ASSERT_TRUE(memory);
    const Ring& ring = (*memory)->to_send();
    ring.data[0] = 7;
    EXPECT_EQ(ring.data[ring.capacity], 7);
    ring.data[2 * ring.capacity - 1] = 9;
    EXPECT_EQ(ring.data[ring.capacity - 1], 9);
    EXPECT_EQ((*memory)->to_receive().data[0], 0);
}

TEST(RingMemory, RoundsAndBoundsTheSize) {
    EXPECT_EQ((*RingMemory::create(0))->to_send().capacity, RingMemory::kSmallest);
    EXPECT_EQ((*RingMemory::create(100'000))->to_send().capacity, 131'072U);
    EXPECT_EQ((*RingMemory::create(SIZE_MAX))->to_send().capacity, RingMemory::kLargest);
}

TEST(RingMemory, AdoptsOnlySealedMemoryOfAPossibleSize) {
    constexpr int kSeals = F_SEAL_SHRINK | F_SEAL_GROW;
    constexpr std::size_t kRight = 2 * 4096 + 2 * kCapacity;
    EXPECT_TRUE(RingMemory::adopt(make_memory(kRight, kSeals)));
    EXPECT_FALSE(RingMemory::adopt(make_memory(kRight, 0)));
    EXPECT_FALSE(RingMemory::adopt(make_memory(kRight, F_SEAL_GROW)));
    EXPECT_FALSE(RingMemory::adopt(make_memory(kRight, F_SEAL_SHRINK)));
    for (const std::size_t bytes :
         {std::size_t{0}, std::size_t{4096}, std::size_t{2 * 4096}, kRight - 1, kRight + 1,
          kRight + 4096, 2 * kRight, 2 * 4096 + 4 * RingMemory::kLargest}) {
        const auto adopted = RingMemory::adopt(make_memory(bytes, kSeals));
        ASSERT_FALSE(adopted) << bytes;
        EXPECT_EQ(adopted.status().code(), Code::protocol);
    }
    EXPECT_FALSE(RingMemory::adopt(FileDescriptor(::open("/dev/zero", O_RDWR | O_CLOEXEC))));
    EXPECT_FALSE(RingMemory::adopt(FileDescriptor()));
}

class RingEnds : public ::testing::Test {
  protected:
    std::unique_ptr<RingMemory> memory_ = std::move(*RingMemory::create(kCapacity));
    RingControl* control_ = memory_->to_send().control;
    RingProducer producer_{memory_->to_send()};
    RingConsumer consumer_{memory_->to_send()};
};

TEST_F(RingEnds, BytesPassInOrderAcrossTheEdge) {
    std::mt19937 random(1);
    std::uint8_t written = 0;
    std::uint8_t read = 0;
    for (int i = 0; i < 1000; ++i) {
        const std::size_t room = *producer_.room();
        const std::size_t count = random() % (room + 1);
        for (std::size_t j = 0; j < count; ++j) producer_.place()[j] = written++;
        producer_.publish(count);
        const auto bytes = consumer_.readable();
        ASSERT_TRUE(bytes);
        const std::size_t taken = random() % (bytes->size() + 1);
        for (std::size_t j = 0; j < taken; ++j) ASSERT_EQ((*bytes)[j], read++);
        EXPECT_FALSE(consumer_.take(taken));
    }
}

TEST_F(RingEnds, ASleepingConsumerIsToBeWokenOnce) {
    EXPECT_FALSE(producer_.consumer_sleeps());
    EXPECT_TRUE(consumer_.sleep());
    producer_.publish(64);
    EXPECT_TRUE(producer_.consumer_sleeps());
    EXPECT_FALSE(producer_.consumer_sleeps());
    EXPECT_FALSE(consumer_.sleep()) << "there are bytes";
}

TEST_F(RingEnds, ASleepingProducerIsWokenWhenHalfIsFree) {
    EXPECT_FALSE(producer_.sleep()) << "the ring is empty";
    ASSERT_TRUE(consumer_.readable());
    EXPECT_TRUE(consumer_.take(0)) << "it had announced";
    producer_.publish(kCapacity);
    EXPECT_EQ(*producer_.room(), 0U);
    EXPECT_TRUE(producer_.sleep());
    ASSERT_EQ(consumer_.readable()->size(), kCapacity);
    EXPECT_FALSE(consumer_.take(kCapacity / 2 - 64));
    EXPECT_TRUE(consumer_.take(64));
    EXPECT_FALSE(consumer_.take(64));
}

TEST_F(RingEnds, ImpossiblePositionsAreNoticed) {
    for (const std::uint64_t position :
         {std::uint64_t{1}, std::uint64_t{kCapacity}, UINT64_MAX / 2}) {
        control_->taken.store(position);
        EXPECT_EQ(producer_.room().status().code(), Code::protocol) << position;
    }
    control_->taken.store(0);
    producer_.publish(kCapacity / 2);
    ASSERT_TRUE(consumer_.readable());
    EXPECT_FALSE(consumer_.take(kCapacity / 4));
    for (const std::uint64_t position : {std::uint64_t{0}, std::uint64_t{kCapacity / 4 - 1},
                                         std::uint64_t{2 * kCapacity}, UINT64_MAX}) {
        control_->written.store(position);
        EXPECT_EQ(consumer_.readable().status().code(), Code::protocol) << position;
    }
}

TEST_F(RingEnds, NoWakeUpIsLostBetweenTwoThreads) {
    // Each sleeps only when it may, and then until it is woken: a lost wake-up hangs the test.
    constexpr std::uint64_t kTotal = 20'000;
    std::atomic<std::uint32_t> wake_consumer{0};
    std::atomic<std::uint32_t> wake_producer{0};
    const auto sleep_on = [](std::atomic<std::uint32_t>& word) {
        while (word.exchange(0) == 0) word.wait(0);
    };
    const auto wake = [](std::atomic<std::uint32_t>& word) {
        word.store(1);
        word.notify_one();
    };
    constexpr std::size_t kPiece = kCapacity / 4;
    std::thread consumer([&] {
        for (std::uint64_t taken = 0; taken < kTotal;) {
            const std::size_t count = consumer_.readable()->size() / kPiece;
            if (count == 0) {
                if (consumer_.sleep()) sleep_on(wake_consumer);
                continue;
            }
            if (consumer_.take(kPiece)) wake(wake_producer);
            ++taken;
        }
    });
    for (std::uint64_t sent = 0; sent < kTotal;) {
        if (*producer_.room() < kPiece) {
            if (producer_.sleep()) sleep_on(wake_producer);
            continue;
        }
        producer_.publish(kPiece);
        ++sent;
        if (producer_.consumer_sleeps()) wake(wake_consumer);
    }
    consumer.join();
}

// A lane whose peer writes what it likes to the shared memory.
class HostileRing : public ::testing::Test {
  protected:
    void SetUp() override {
        auto [mine, theirs] = link_pair(kCapacity);
        theirs_ = std::move(theirs);
        ASSERT_TRUE(loop_.start("hostile ring"));
        sink_ = sinks_.add(GrantId{1}, {&pages_});
        in_loop(loop_, [&] {
            lane_ = std::make_unique<ShmLane>(
                loop_, std::move(mine), sinks_,
                [this](Status reason) { events_.note([&] { failure_ = std::move(reason); }); },
                log_);
        });
        in_loop(loop_, [] {});
    }
    void TearDown() override {
        in_loop(loop_, [this] { lane_.reset(); });
        loop_.stop();
    }
    void put(const BatchHeader& header) { encode(header, ring().data); }
    void publish(std::uint64_t position) {
        ring().control->written.store(position);
        const std::uint64_t one = 1;
        ASSERT_EQ(::write(theirs_.wake_peer.get(), &one, 8), 8);
    }
    void expect_protocol_failure() {
        ASSERT_TRUE(events_.wait([this] { return !failure_.ok(); }));
        EXPECT_EQ(failure_.code(), Code::protocol) << failure_.to_string();
        EXPECT_TRUE(pages_.untouched());
    }
    [[nodiscard]] const Ring& ring() const { return theirs_.rings->to_send(); }

    BatchHeader header_{BatchHeader::Kind::batch, 0, GrantId{1}, 0, 0, 0, 1000, 0};
    Pages pages_{{10, 1000}, 1};
    Events events_;
    TestSinks sinks_{events_};
    std::shared_ptr<TestSink> sink_;
    Log log_{LogLevel::error};
    EventLoop loop_;
    SameHostLink theirs_;
    std::unique_ptr<ShmLane> lane_;
    Status failure_;
};

TEST_F(HostileRing, AnHonestRecordArrives) {
    put(header_);
    std::memset(ring().data + 64, 0x11, 1000);
    publish(64 + 1024);
    ASSERT_TRUE(events_.wait([this] { return sink_->bytes == 1000; }));
    EXPECT_TRUE(failure_.ok());
}

TEST_F(HostileRing, APositionBeyondTheRing) {
    put(header_);  // which alone would be good
    publish(kCapacity + 64);
    expect_protocol_failure();
}

TEST_F(HostileRing, APositionThatGoesBack) {
    put(header_);
    publish(UINT64_MAX - 63);
    expect_protocol_failure();
}

TEST_F(HostileRing, LessThanAHeader) {
    put(header_);
    publish(40);
    expect_protocol_failure();
}

TEST_F(HostileRing, LessThanTheHeaderSays) {
    put(header_);
    publish(64 + 512);
    expect_protocol_failure();
}

TEST_F(HostileRing, ALengthBeyondEverything) {
    header_.length = UINT32_MAX;
    put(header_);
    publish(kCapacity);
    expect_protocol_failure();
}

TEST_F(HostileRing, NoHeaderAtAll) {
    std::memset(ring().data, 0xff, 4096);
    publish(4096);
    expect_protocol_failure();
}

TEST_F(HostileRing, AnOffsetBeyondThePagesIsDroppedAndNothingElse) {
    header_.offset = 9001;
    put(header_);
    header_.offset = UINT64_MAX - 2000;
    encode(header_, ring().data + 1088);
    header_.offset = 9000;
    encode(header_, ring().data + 2 * 1088);
    publish(3 * 1088);
    ASSERT_TRUE(events_.wait([this] { return sink_->bytes == 1000; }));
    EXPECT_TRUE(pages_.untouched_but(9000, 1000));
    EXPECT_TRUE(failure_.ok());
}

TEST_F(HostileRing, RewritingTheRingWhileItIsReadWritesNothingElsewhere) {
#ifdef __SANITIZE_THREAD__
    GTEST_SKIP() << "the data race is what is tested";
#endif
    // Every slot always holds some header that makes sense, of a record that fills the slot, but
    // not always the one that was checked.
    constexpr std::size_t kSlot = 2048;
    const auto vandalise = [this](std::mt19937_64& random, std::size_t slot) {
        BatchHeader header = header_;
        header.length = static_cast<std::uint32_t>(1921 + random() % 64);
        header.offset = random() % 12'000;
        header.part = static_cast<std::uint16_t>(random() % 2);
        encode(header, ring().data + slot * kSlot);
    };
    std::mt19937_64 first(6);
    for (std::size_t slot = 0; slot < kCapacity / kSlot; ++slot) vandalise(first, slot);
    std::atomic<bool> stop{false};
    std::thread vandal([&] {
        std::mt19937_64 random(7);
        while (!stop.load()) vandalise(random, random() % (kCapacity / kSlot));
    });
    for (std::uint64_t position = kSlot; position < 1000 * kSlot; position += kSlot) {
        publish(position);
        in_loop(loop_, [] {});
    }
    stop = true;
    vandal.join();
    EXPECT_TRUE(pages_.untouched_but(0, pages_.bytes()));
    EXPECT_GT(sink_->bytes, 0U);
}

}  // namespace
}  // namespace mc::testing
