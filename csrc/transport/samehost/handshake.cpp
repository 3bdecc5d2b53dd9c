// SPDX-License-Identifier: Apache-2.0
#include "transport/samehost/handshake.hpp"

#include <poll.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstring>
#include <system_error>

namespace mc::samehost {
namespace {

// The C library here may be older than the kernel.
constexpr int kSoPeerPidfd = 77;  // SO_PEERPIDFD, Linux 6.5
constexpr long kPidfdOpen = 434;  // pidfd_open, Linux 5.3

FileDescriptor open_pidfd(int socket, pid_t pid) {
    int fd = -1;
    socklen_t length = sizeof(fd);
    // The socket's own answer cannot name a later process with the same number.
    if (::getsockopt(socket, SOL_SOCKET, kSoPeerPidfd, &fd, &length) == 0)
        return FileDescriptor(fd);
    return FileDescriptor(static_cast<int>(::syscall(kPidfdOpen, pid, 0)));
}

bool alive(int pidfd) {
    pollfd waiting{pidfd, POLLIN, 0};
    return ::poll(&waiting, 1, 0) == 0;  // readable once the process has ended
}

// Empty when the nonce was read from the peer's memory, else why not.
std::string probe(pid_t pid, int pidfd, const Proof& proof) {
    Token found;
    const iovec here{found.bytes.data(), found.bytes.size()};
    const iovec there{reinterpret_cast<void*>(proof.address), found.bytes.size()};
    const ssize_t count = ::process_vm_readv(pid, &here, 1, &there, 1, 0);
    if (count < 0) {
        return "process_vm_readv is refused: " + std::generic_category().message(errno);
    }
    if (static_cast<std::size_t>(count) != found.bytes.size() || found != proof.nonce) {
        return "process " + std::to_string(pid) + " is not the peer";
    }
    // The pidfd was there first: alive now, it was alive, and the same, when its memory was read.
    return alive(pidfd) ? "" : "the peer has ended";
}

}  // namespace

Status send_with_descriptors(int socket, std::span<const std::uint8_t> bytes,
                             std::span<const int> descriptors) {
    iovec vector{const_cast<std::uint8_t*>(bytes.data()), bytes.size()};
    alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int) * kDescriptors)> control{};
    msghdr message{};
    message.msg_iov = &vector;
    message.msg_iovlen = 1;
    if (!descriptors.empty()) {
        message.msg_control = control.data();
        message.msg_controllen = CMSG_SPACE(descriptors.size_bytes());
        cmsghdr* const header = CMSG_FIRSTHDR(&message);
        header->cmsg_level = SOL_SOCKET;
        header->cmsg_type = SCM_RIGHTS;
        header->cmsg_len = CMSG_LEN(descriptors.size_bytes());
        std::memcpy(CMSG_DATA(header), descriptors.data(), descriptors.size_bytes());
    }
    const ssize_t count = ::sendmsg(socket, &message, MSG_NOSIGNAL);
    if (count == static_cast<ssize_t>(bytes.size())) return {};
    return errno_status("cannot send on a Unix socket", count < 0 ? errno : EMSGSIZE);
}

Status receive_with_descriptors(int socket, std::span<std::uint8_t> bytes,
                                std::vector<FileDescriptor>& descriptors) {
    iovec vector{bytes.data(), bytes.size()};
    alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int) * kDescriptors)> control{};
    msghdr message{};
    message.msg_iov = &vector;
    message.msg_iovlen = 1;
    message.msg_control = control.data();
    message.msg_controllen = control.size();
    const ssize_t count = ::recvmsg(socket, &message, MSG_CMSG_CLOEXEC);
    if (count < 0) return errno_status("cannot receive on a Unix socket", errno);
    for (cmsghdr* header = CMSG_FIRSTHDR(&message); header != nullptr;
         header = CMSG_NXTHDR(&message, header)) {
        if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS) continue;
        const std::size_t number = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (std::size_t i = 0; i < number; ++i) {
            int fd = -1;
            std::memcpy(&fd, CMSG_DATA(header) + i * sizeof(int), sizeof(int));
            descriptors.emplace_back(fd);
        }
    }
    if (count == 0) return {Code::peer_lost, "the peer closed the Unix socket"};
    if (count != static_cast<ssize_t>(bytes.size()) || (message.msg_flags & MSG_CTRUNC) != 0) {
        return {Code::protocol, "not a message of the same-host handshake"};
    }
    return {};
}

void identify_peer(SameHostLink& link, const Proof& proof) {
    ucred credentials{};
    socklen_t length = sizeof(credentials);
    if (::getsockopt(link.socket.get(), SOL_SOCKET, SO_PEERCRED, &credentials, &length) != 0 ||
        credentials.pid <= 0) {
        link.cma_reason = "the peer lives in another pid namespace";
        return;
    }
    link.peer_pid = credentials.pid;
    FileDescriptor pidfd = open_pidfd(link.socket.get(), credentials.pid);
    if (!pidfd) {
        link.cma_reason = "the kernel gives no pidfd: " + std::generic_category().message(errno);
        return;
    }
    link.cma_reason = probe(credentials.pid, pidfd.get(), proof);
    link.cma_readable = link.cma_reason.empty();
    if (link.cma_readable) link.pidfd = std::move(pidfd);
}

Result<Address> socket_address(const std::string& name) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    const bool abstract = name.starts_with('@');
    // A path needs its final zero; an abstract name has a leading one instead, and is all its
    // bytes.
    if (name.empty() || name.size() + (abstract ? 0 : 1) > sizeof(address.sun_path)) {
        return Status(Code::invalid_argument, "'" + name + "' is " +
                                                  (name.empty() ? "empty" : "too long") +
                                                  " for a Unix socket's name");
    }
    std::memcpy(address.sun_path, name.data(), name.size());
    if (abstract) address.sun_path[0] = '\0';
    Address result;
    static_assert(sizeof(address) <= sizeof(result.storage));
    std::memcpy(result.storage.data(), &address, sizeof(address));
    result.length = static_cast<std::uint32_t>(offsetof(sockaddr_un, sun_path) + name.size() +
                                               (abstract ? 0 : 1));
    return result;
}

}  // namespace mc::samehost
