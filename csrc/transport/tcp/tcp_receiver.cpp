// SPDX-License-Identifier: Apache-2.0
#include "transport/tcp/tcp_receiver.hpp"

#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

#include "transport/tcp/constants.hpp"

namespace mc {
namespace {

// How many bytes one recvmsg() call brought; 0 when there are none now.
Result<std::uint64_t> read_vectors(int socket, std::span<iovec> vectors) {
    msghdr message{};
    message.msg_iov = vectors.data();
    message.msg_iovlen = vectors.size();
    for (;;) {
        const ssize_t count = ::recvmsg(socket, &message, MSG_DONTWAIT);
        if (count > 0) return static_cast<std::uint64_t>(count);
        if (count == 0) return Status(Code::peer_lost, "the peer closed the connection");
        if (errno == EAGAIN || errno == EWOULDBLOCK) return std::uint64_t{0};
        if (errno != EINTR) return errno_status("receiving from the peer failed", errno);
    }
}

}  // namespace

TcpReceiver::TcpReceiver(Arrival& arrival)
    : arrival_(arrival),
      staging_(std::make_unique_for_overwrite<std::uint8_t[]>(kTcpStagingBytes)) {}

Status TcpReceiver::receive(int socket, std::uint64_t budget) {
    std::uint64_t total = 0;
    bool more = true;
    while (more && total < budget) {
        const bool into_pages = direct_ && arrival_.wanted() && arrival_.left() > 0;
        Result<bool> read = into_pages ? read_direct(socket, total) : read_staged(socket, total);
        if (!read) return read.status();
        more = *read;
        MC_RETURN_IF_ERROR(parse());
    }
    return {};
}

// Uses up what is staged, but for the beginning of a header.
Status TcpReceiver::parse() {
    for (;;) {
        if (arrival_.left() > 0) {
            const std::uint64_t length = std::min<std::uint64_t>(arrival_.left(), staged());
            if (length == 0) break;
            arrival_.place({&staging_[begin_], length});
            begin_ += length;
            continue;
        }
        if (staged() < BatchHeader::kBytes) break;
        Result<BatchHeader> header =
            decode_batch_header(std::span<const std::uint8_t, BatchHeader::kBytes>(
                &staging_[begin_], BatchHeader::kBytes));
        if (!header) return header.status();
        begin_ += BatchHeader::kBytes;
        arrival_.begin(*header);
        direct_ = arrival_.wanted() && arrival_.stream().longer_than(kTcpDirectReceiveBytes);
    }
    std::memmove(&staging_[0], &staging_[begin_], staged());
    end_ -= begin_;
    begin_ = 0;
    return {};
}

Result<bool> TcpReceiver::read_staged(int socket, std::uint64_t& total) {
    const std::size_t limit =
        direct_ && arrival_.left() == 0 ? BatchHeader::kBytes : kTcpStagingBytes;
    iovec vector{&staging_[end_], limit - end_};
    Result<std::uint64_t> count = read_vectors(socket, {&vector, 1});
    if (!count) return count.status();
    end_ += *count;
    total += *count;
    return *count == vector.iov_len;
}

Result<bool> TcpReceiver::read_direct(int socket, std::uint64_t& total) {
    std::array<iovec, SegmentStream::kWindow + 1> vectors;
    std::uint64_t covered = 0;
    Result<std::uint64_t> count = std::uint64_t{0};
    std::uint64_t wanted = 0;
    {
        const HoldVisit visit(arrival_.hold(), arrival_.epoch());
        if (!visit) {
            arrival_.refuse();
            return true;
        }
        std::size_t used = describe(arrival_.stream(), arrival_.left(),
                                    std::span(vectors).first(SegmentStream::kWindow), covered);
        wanted = covered;
        if (covered == arrival_.left()) {  // the next header along with it
            vectors[used++] = {&staging_[end_], BatchHeader::kBytes};
            wanted += BatchHeader::kBytes;
        }
        count = read_vectors(socket, std::span(vectors).first(used));
    }
    if (!count) return count.status();
    const std::uint64_t placed = std::min(*count, covered);
    end_ += *count - placed;
    total += *count;
    arrival_.arrived(placed);
    return *count == wanted;
}

}  // namespace mc
