// SPDX-License-Identifier: Apache-2.0
#include "bindings/baseline/streams.hpp"

#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <memory>
#include <system_error>

namespace mc::baseline {

namespace {

// The number of bytes that a socket call moved: 0 when a signal interrupted it, never negative.
std::size_t moved(ssize_t result, const char* call) {
    if (result >= 0) return static_cast<std::size_t>(result);
    if (errno == EINTR) return 0;
    const bool out_of_time = errno == EAGAIN || errno == EWOULDBLOCK;
    throw std::system_error(out_of_time ? ETIMEDOUT : errno, std::generic_category(), call);
}

std::size_t received(ssize_t result, const char* call) {
    if (result == 0) {
        throw std::system_error(ECONNRESET, std::generic_category(),
                                "the other end closed the stream early");
    }
    return moved(result, call);
}

}  // namespace

void send_vectored(int socket, std::span<const Segment> segments) {
    std::array<iovec, kMaxVectors> vectors;
    SegmentWalk walk(segments);
    while (walk.remaining() > 0) {
        msghdr message{};
        message.msg_iov = vectors.data();
        message.msg_iovlen = walk.describe(vectors);
        walk.advance(moved(sendmsg(socket, &message, MSG_NOSIGNAL), "sendmsg"));
    }
}

void receive_vectored(int socket, std::span<const Segment> segments) {
    std::array<iovec, kMaxVectors> vectors;
    SegmentWalk walk(segments);
    while (walk.remaining() > 0) {
        const auto count = static_cast<int>(walk.describe(vectors));
        walk.advance(received(readv(socket, vectors.data(), count), "readv"));
    }
}

void send_packed(int socket, std::span<const Segment> segments) {
    const auto buffer = std::make_unique_for_overwrite<std::byte[]>(kPackBytes);
    SegmentWalk walk(segments);
    while (walk.remaining() > 0) {
        const std::size_t filled = walk.gather(buffer.get(), kPackBytes);
        std::size_t sent = 0;
        while (sent < filled) {
            sent += moved(send(socket, buffer.get() + sent, filled - sent, MSG_NOSIGNAL), "send");
        }
    }
}

void receive_packed(int socket, std::span<const Segment> segments) {
    const auto buffer = std::make_unique_for_overwrite<std::byte[]>(kPackBytes);
    SegmentWalk walk(segments);
    while (walk.remaining() > 0) {
        const std::size_t wanted = std::min<std::uint64_t>(kPackBytes, walk.remaining());
        walk.scatter(buffer.get(), received(recv(socket, buffer.get(), wanted, 0), "recv"));
    }
}

}  // namespace mc::baseline
