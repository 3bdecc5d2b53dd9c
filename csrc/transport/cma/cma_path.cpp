// SPDX-License-Identifier: Apache-2.0
#include "transport/cma/cma_path.hpp"

#include <poll.h>
#include <sys/uio.h>

#include <array>
#include <cerrno>
#include <cstddef>
#include <utility>

namespace mc {
namespace {

constexpr std::size_t kVectors = 1024;  // UIO_MAXIOV: what one call takes on each side

// The entries of one side of a call; neighbours that touch become one.
class Vectors {
  public:
    void add(std::uint64_t address, std::uint64_t length) {
        if (count_ > 0) {
            iovec& last = entries_[count_ - 1];
            if (reinterpret_cast<std::uint64_t>(last.iov_base) + last.iov_len == address) {
                last.iov_len += length;
                return;
            }
        }
        entries_[count_++] = {reinterpret_cast<void*>(address), length};
    }

    // Forgets the first `bytes`, which have been copied.
    void drop(std::uint64_t bytes) {
        while (bytes > 0) {
            iovec& first = entries_[first_];
            if (bytes < first.iov_len) {
                first.iov_base = static_cast<std::uint8_t*>(first.iov_base) + bytes;
                first.iov_len -= bytes;
                return;
            }
            bytes -= first.iov_len;
            ++first_;
        }
    }

    [[nodiscard]] const iovec* data() const { return &entries_[first_]; }
    [[nodiscard]] std::size_t size() const { return count_ - first_; }

  private:
    std::array<iovec, kVectors> entries_;
    std::size_t first_ = 0;
    std::size_t count_ = 0;
};

Status peer_ended() { return {Code::peer_lost, "the peer's process has ended"}; }

Status read_failure(int error) {
    if (error == ESRCH) return peer_ended();
    if (error == EFAULT) {
        return {Code::aborted, "the sender's pages cannot be read: they are no longer mapped"};
    }
    return errno_status("reading the peer's memory failed", error);
}

}  // namespace

CmaPath::CmaPath(EventLoop& loop, pid_t pid, FileDescriptor pidfd, OnFailure on_failure)
    : PullPath(loop, std::move(on_failure)), pid_(pid), pidfd_(std::move(pidfd)) {}

CmaPath::~CmaPath() { close(Status(Code::aborted, "the cross-process path was taken down")); }

void CmaPath::close(Status reason) {
    PullPath::close(std::move(reason));
    pidfd_.reset();
}

Status CmaPath::read(const Pull& job, std::span<const Span> spans) {
    Vectors here;
    Vectors there;
    std::uint64_t left = 0;
    for (const Span& span : spans) {
        here.add(span.destination, span.length);
        there.add(span.source, span.length);
        left += span.length;
    }
    // The kernel copies in the order of the vectors: what the guard says holds for all before it.
    std::uint64_t guard = 0;
    here.add(reinterpret_cast<std::uint64_t>(&guard), sizeof(guard));
    there.add(job.guard, sizeof(guard));
    left += sizeof(guard);
    while (left > 0) {
        const ssize_t count =
            ::process_vm_readv(pid_, here.data(), here.size(), there.data(), there.size(), 0);
        if (count < 0 && errno == EINTR) continue;
        if (count < 0) return read_failure(errno);
        if (count == 0) return read_failure(EFAULT);
        here.drop(static_cast<std::uint64_t>(count));
        there.drop(static_cast<std::uint64_t>(count));
        left -= static_cast<std::uint64_t>(count);
    }
    // Alive after the read, the process was the same during it: its number cannot have been reused.
    pollfd ended{pidfd_.get(), POLLIN, 0};
    if (::poll(&ended, 1, 0) != 0) return peer_ended();
    if (guard != job.expected) return {Code::aborted, "the sender has taken its pages back"};
    return {};
}

}  // namespace mc
