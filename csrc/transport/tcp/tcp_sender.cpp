// SPDX-License-Identifier: Apache-2.0
#include "transport/tcp/tcp_sender.hpp"

#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <utility>

#include "transport/tcp/constants.hpp"

namespace mc {
namespace {

// Stands in for pages that may not be read any more.
constexpr std::array<std::uint8_t, 64U << 10> kZeros{};

// How many bytes one sendmsg() call took; 0 when the socket is full.
Result<std::uint64_t> write_vectors(int socket, std::span<iovec> vectors) {
    msghdr message{};
    message.msg_iov = vectors.data();
    message.msg_iovlen = vectors.size();
    for (;;) {
        const ssize_t count = ::sendmsg(socket, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (count >= 0) return static_cast<std::uint64_t>(count);
        if (errno == EAGAIN || errno == EWOULDBLOCK) return std::uint64_t{0};
        if (errno != EINTR) return errno_status("sending to the peer failed", errno);
    }
}

}  // namespace

TcpSender::TcpSender(PushQueue& queue, Finish finish)
    : queue_(queue),
      finish_(std::move(finish)),
      staging_(std::make_unique_for_overwrite<std::uint8_t[]>(kTcpStagingBytes)) {}

Result<TcpSender::Outcome> TcpSender::send(int socket, std::uint64_t budget) {
    for (std::uint64_t total = 0; total < budget;) {
        fill();
        if (unsent() == 0) return Outcome::idle;
        Result<bool> took_all = transmit(socket, total);
        if (!took_all) return took_all.status();
        if (!*took_all) return Outcome::blocked;
    }
    return Outcome::more;
}

void TcpSender::fill() {
    while (direct_left_ == 0 && filler_left_ == 0 && !queue_.empty()) {
        if (kTcpStagingBytes - end_ < BatchHeader::kBytes) return;
        queue_.choose();
        if (queue_.at_end()) {
            put_header(queue_.take_end());
        } else if (queue_.job_remaining() == 0) {
            packed_.push_back(queue_.take_job());
            if (staged() == 0) sent(0);
        } else if (queue_.stream().longer_than(kTcpDirectSendBytes)) {
            begin_direct();
        } else if (!pack()) {
            return;
        }
    }
}

// One batch into the staging buffer; false when too little of it is free.
bool TcpSender::pack() {
    const std::size_t room = kTcpStagingBytes - end_ - BatchHeader::kBytes;
    const std::uint64_t wanted = std::min<std::uint64_t>(queue_.job_remaining(), kMaxBatchBytes);
    if (room < std::min<std::uint64_t>(wanted, kTcpSmallestCutBytes)) return false;
    const auto length = static_cast<std::uint32_t>(std::min<std::uint64_t>(wanted, room));

    const Push& job = queue_.job();
    const std::uint32_t epoch = job.piece.epoch;
    {
        const HoldVisit visit(*job.hold, epoch);
        if (visit) gather(queue_.stream(), &staging_[end_ + BatchHeader::kBytes], length);
    }
    if (!job.hold->current(epoch)) {  // nothing of the batch was sent, so none of it has to be
        finish_(queue_.take_job(), pages_taken_back());
        return true;
    }
    put_header(queue_.header(length));
    end_ += length;
    queue_.account(length);
    if (queue_.job_remaining() == 0) packed_.push_back(queue_.take_job());
    return true;
}

void TcpSender::begin_direct() {
    const auto length =
        static_cast<std::uint32_t>(std::min<std::uint64_t>(queue_.job_remaining(), kMaxBatchBytes));
    put_header(queue_.header(length));
    queue_.account(length);
    direct_left_ = length;
}

void TcpSender::put_header(const BatchHeader& header) {
    encode(header, &staging_[end_]);
    end_ += BatchHeader::kBytes;
}

// One system call for what is staged and what lies behind it; whether the socket took it all.
Result<bool> TcpSender::transmit(int socket, std::uint64_t& total) {
    std::array<iovec, 1 + SegmentStream::kWindow> vectors;
    std::size_t count = 0;
    std::uint64_t offered = staged();
    if (staged() > 0) vectors[count++] = {&staging_[begin_], staged()};

    Result<std::uint64_t> taken = std::uint64_t{0};
    if (direct_left_ > 0) {
        const Push& job = queue_.job();
        const HoldVisit visit(*job.hold, job.piece.epoch);
        if (!visit) {
            abort_direct();
            return true;  // nothing was offered yet: the zeros come in the next call
        }
        count +=
            describe(queue_.stream(), direct_left_, std::span(vectors).subspan(count), offered);
        taken = write_vectors(socket, std::span(vectors).first(count));
    } else {
        if (filler_left_ > 0) {
            const std::uint64_t length = std::min<std::uint64_t>(filler_left_, kZeros.size());
            // sendmsg() does not write to what its vectors name.
            vectors[count++] = {const_cast<std::uint8_t*>(kZeros.data()), length};
            offered += length;
        }
        taken = write_vectors(socket, std::span(vectors).first(count));
    }
    if (!taken) return taken.status();
    sent(*taken);
    total += *taken;
    return *taken == offered;
}

void TcpSender::sent(std::uint64_t bytes) {
    const std::uint64_t from_staging = std::min<std::uint64_t>(bytes, staged());
    begin_ += from_staging;
    bytes -= from_staging;
    if (staged() == 0) {
        begin_ = end_ = 0;
        for (PushQueue::Finished& job : std::exchange(packed_, {})) finish_(std::move(job), {});
    }
    if (direct_left_ > 0) return sent_direct(bytes);
    filler_left_ -= bytes;
}

void TcpSender::sent_direct(std::uint64_t bytes) {
    const Push& job = queue_.job();
    queue_.stream().advance(bytes);
    direct_left_ -= bytes;
    if (!job.hold->current(job.piece.epoch)) return abort_direct();
    if (direct_left_ == 0 && queue_.job_remaining() == 0) finish_(queue_.take_job(), {});
}

void TcpSender::abort_direct() {
    filler_left_ = std::exchange(direct_left_, 0);
    finish_(queue_.take_job(), pages_taken_back());
}

void TcpSender::abandon(const Status& reason) {
    for (PushQueue::Finished& job : std::exchange(packed_, {})) finish_(std::move(job), reason);
}

}  // namespace mc
