// SPDX-License-Identifier: Apache-2.0
#include "transport/shm/shm_lane.hpp"

#include <sys/epoll.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>

namespace mc {
namespace {

constexpr std::size_t kCacheLine = 64;
constexpr std::size_t kHeaderSlot = kCacheLine;
static_assert(BatchHeader::kBytes <= kHeaderSlot);

// One record: small enough that several fit a ring, so that both sides work at once.
constexpr std::size_t kRecordBytes = 128U << 10;
// A batch is not cut shorter than this only to fill the ring up.
constexpr std::size_t kSmallestCutBytes = 16U << 10;

std::size_t record_bytes(std::size_t payload) {
    return kHeaderSlot + (payload + kCacheLine - 1) / kCacheLine * kCacheLine;
}

Status truncated() { return {Code::protocol, "the peer published less than a record"}; }

}  // namespace

ShmLane::ShmLane(EventLoop& loop, SameHostLink link, Sinks& sinks, OnFailure on_failure, Log& log)
    : PushPath(loop, sinks, std::move(on_failure), log),
      link_(std::move(link)),
      producer_(link_.rings->to_send()),
      consumer_(link_.rings->to_receive()) {
    schedule();  // looks for what came before the ring was watched, and watches it
}

ShmLane::~ShmLane() { close(Status(Code::aborted, "the shared-memory lane was taken down")); }

Status ShmLane::watch() {
    watched_ = true;
    // Edge-triggered: every write is an event of its own, and nobody has to read.
    MC_RETURN_IF_ERROR(
        loop_.watch(link_.wake_me.get(), EPOLLIN | EPOLLET, [this](std::uint32_t) { step(); }));
    return loop_.watch(link_.socket.get(), EPOLLRDHUP, [this](std::uint32_t) { hung_up(); });
}

Status ShmLane::advance() {
    if (!watched_) MC_RETURN_IF_ERROR(watch());
    Result<Outcome> received = receive(kStepBytes);
    if (!received) return received.status();
    Result<Outcome> sent = send(kStepBytes);
    if (!sent) return sent.status();
    // Sleep is announced only when there is nothing left to do here.
    const bool sleep = *received == Outcome::idle && *sent != Outcome::more && consumer_.sleep() &&
                       (*sent != Outcome::blocked || producer_.sleep());
    if (!sleep) schedule();
    return {};
}

Result<ShmLane::Outcome> ShmLane::receive(std::uint64_t budget) {
    std::uint64_t total = 0;
    while (total < budget) {
        Result<std::span<const std::uint8_t>> readable = consumer_.readable();
        if (!readable) return readable.status();
        if (readable->empty()) return Outcome::idle;
        if (readable->size() < kHeaderSlot) return truncated();
        // Copied first and checked then: the peer could change it in between.
        BatchHeader::Wire wire;
        std::memcpy(wire.data(), readable->data(), wire.size());
        Result<BatchHeader> header = decode_batch_header(wire);
        if (!header) return header.status();
        const std::size_t record = record_bytes(header->length);
        if (record > readable->size()) return truncated();
        arrival_.begin(*header);
        if (header->length > 0) arrival_.place(readable->subspan(kHeaderSlot, header->length));
        wake_peer_if(consumer_.take(record));
        total += record;
    }
    return Outcome::more;
}

Result<ShmLane::Outcome> ShmLane::send(std::uint64_t budget) {
    std::uint64_t total = 0;
    std::size_t unannounced = 0;  // published since it was last looked whether the consumer sleeps
    Outcome outcome = Outcome::idle;
    while (!queue_.empty()) {
        if (total >= budget) {
            outcome = Outcome::more;
            break;
        }
        Result<std::size_t> room = producer_.room();
        if (!room) return room.status();
        queue_.choose();
        const std::uint64_t least =
            queue_.at_end() ? 0
                            : std::min<std::uint64_t>(queue_.job_remaining(), kSmallestCutBytes);
        if (*room < record_bytes(least)) {
            outcome = Outcome::blocked;
            break;
        }
        const std::size_t published = queue_.at_end() ? put_end() : put_batch(*room);
        total += published;
        unannounced += published;
        // The consumer is woken while there is more to gather, so that both work at once, but not
        // for every record.
        if (unannounced >= producer_.capacity() / 8) {
            unannounced = 0;
            wake_peer_if(producer_.consumer_sleeps());
        }
    }
    if (unannounced > 0) wake_peer_if(producer_.consumer_sleeps());
    return outcome;
}

std::size_t ShmLane::put_end() {
    encode(queue_.take_end(), producer_.place());
    producer_.publish(kHeaderSlot);
    return kHeaderSlot;
}

std::size_t ShmLane::put_batch(std::size_t room) {
    // Whole cache lines, whatever position the peer claims.
    const std::size_t payload_room = room / kCacheLine * kCacheLine - kHeaderSlot;
    const auto length = static_cast<std::uint32_t>(
        std::min<std::uint64_t>({queue_.job_remaining(), kRecordBytes, payload_room}));
    if (length > 0) {
        const Push& job = queue_.job();
        const std::uint32_t epoch = job.piece.epoch;
        {
            const HoldVisit visit(*job.hold, epoch);
            if (visit) gather(queue_.stream(), producer_.place() + kHeaderSlot, length);
        }
        if (!job.hold->current(epoch)) {  // nothing of it was published
            finish(queue_.take_job(),
                   Status(Code::aborted, "the pages were taken back while they were being sent"));
            return 0;
        }
        encode(queue_.header(length), producer_.place());
        producer_.publish(record_bytes(length));
        queue_.account(length);
    }
    if (queue_.job_remaining() == 0) finish(queue_.take_job(), {});
    return length > 0 ? record_bytes(length) : 0;
}

void ShmLane::wake_peer_if(bool sleeping) {
    if (!sleeping) return;
    const std::uint64_t one = 1;
    [[maybe_unused]] const ssize_t written = ::write(link_.wake_peer.get(), &one, sizeof(one));
}

void ShmLane::hung_up() {
    // What it published before it went is complete; one ringful is all that there can be.
    const Result<Outcome> rest = receive(consumer_.capacity());
    fail(rest ? Status(Code::peer_lost, "the peer on this host is gone") : rest.status());
}

void ShmLane::release() {
    if (watched_) {
        loop_.unwatch(link_.wake_me.get());
        loop_.unwatch(link_.socket.get());
    }
    link_.socket.reset();
    link_.wake_me.reset();
    link_.wake_peer.reset();
}

}  // namespace mc
