// SPDX-License-Identifier: Apache-2.0
#include "transport/samehost/server.hpp"

#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>
#include <vector>

#include "transport/samehost/handshake.hpp"

namespace mc {
namespace {

using samehost::Reply;
using samehost::Request;
using samehost::Verdict;

// Whoever may enter the folder may connect and, if another user, replace the socket.
Status prepare_folder(const std::string& folder) {
    if (::mkdir(folder.c_str(), 0700) != 0 && errno != EEXIST) {
        return errno_status("cannot make the folder ipc_dir=" + folder, errno);
    }
    struct stat about{};
    if (::lstat(folder.c_str(), &about) != 0) {
        return errno_status("cannot examine the folder ipc_dir=" + folder, errno);
    }
    if (!S_ISDIR(about.st_mode) || about.st_uid != ::geteuid() || (about.st_mode & 077) != 0) {
        return {Code::invalid_argument,
                "ipc_dir=" + folder +
                    " must be a folder of this user that nobody else may enter (chmod 700)"};
    }
    return {};
}

}  // namespace

SameHostServer::SameHostServer(EventLoop& loop, Admit admit, OnLink on_link, Log& log)
    : loop_(loop), admit_(std::move(admit)), on_link_(std::move(on_link)), log_(log) {}

Result<std::unique_ptr<SameHostServer>> SameHostServer::listen(EventLoop& loop,
                                                               const std::string& ipc_dir,
                                                               Admit admit, OnLink on_link,
                                                               Log& log) {
    std::string name = "mooncake_connector." + Token::random().hex();
    if (ipc_dir.empty()) {
        name.insert(0, 1, '@');
    } else {
        MC_RETURN_IF_ERROR(prepare_folder(ipc_dir));
        name.insert(0, ipc_dir + "/");
    }
    Result<samehost::Address> address = samehost::socket_address(name);
    if (!address) return address.status();

    std::unique_ptr<SameHostServer> server(
        new SameHostServer(loop, std::move(admit), std::move(on_link), log));
    server->listener_ =
        FileDescriptor(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    if (!server->listener_) return errno_status("cannot make a Unix socket", errno);
    const int listener = server->listener_.get();
    if (::bind(listener, reinterpret_cast<const sockaddr*>(address->storage.data()),
               address->length) != 0) {
        return errno_status("cannot bind the Unix socket " + name, errno);
    }
    server->name_ = std::move(name);
    if (::listen(listener, static_cast<int>(kMaxWaiting)) != 0) {
        return errno_status("cannot listen on the Unix socket " + server->name_, errno);
    }
    SameHostServer* const self = server.get();
    MC_RETURN_IF_ERROR(loop.watch(listener, EPOLLIN, [self](std::uint32_t) { self->accept(); }));
    return server;
}

SameHostServer::~SameHostServer() {
    for (const FileDescriptor& socket : waiting_) loop_.unwatch(socket.get());
    if (listener_) loop_.unwatch(listener_.get());
    if (name_.starts_with('/')) ::unlink(name_.c_str());
}

void SameHostServer::accept() {
    FileDescriptor socket(
        ::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (!socket) {
        if (errno != EMFILE && errno != ENFILE) return;  // gone again
        log_.write(LogLevel::warning, "a same-host peer was refused: " +
                                          errno_status("cannot accept it", errno).message());
        (void)spare_.refuse_one(listener_.get());
        return;
    }
    if (waiting_.size() == kMaxWaiting) drop(waiting_.front().get());
    const int fd = socket.get();
    waiting_.push_back(std::move(socket));
    const Status status = loop_.watch(fd, EPOLLIN, [this, fd](std::uint32_t) { read_request(fd); });
    if (!status) {
        log_.write(LogLevel::warning, "a same-host peer was refused: " + status.message());
        waiting_.pop_back();
    }
}

void SameHostServer::drop(int socket) {
    loop_.unwatch(socket);
    waiting_.remove_if([socket](const FileDescriptor& each) { return each.get() == socket; });
}

void SameHostServer::read_request(int socket) {
    const auto found = std::find_if(waiting_.begin(), waiting_.end(),
                                    [socket](const auto& each) { return each.get() == socket; });
    loop_.unwatch(socket);
    SameHostLink link;
    link.socket = std::move(*found);
    waiting_.erase(found);

    Request request;
    std::vector<FileDescriptor> descriptors;
    Status status = samehost::receive_with_descriptors(
        socket, {reinterpret_cast<std::uint8_t*>(&request), sizeof(request)}, descriptors);
    if (status &&
        (request.magic != samehost::kMagic || descriptors.size() != samehost::kDescriptors)) {
        status = Status(Code::protocol, "the same-host peer speaks another version");
    }
    if (!status) {
        log_.write(LogLevel::warning, "a same-host peer was refused: " + status.message());
        return;
    }

    Reply reply;
    if (!admit_(request.token)) {
        reply.verdict = Verdict::token_unknown;
        log_.write(LogLevel::warning, "a same-host peer was refused: no session has its token");
    } else if (Result<std::unique_ptr<RingMemory>> rings =
                   RingMemory::adopt(std::move(descriptors[0]));
               !rings) {
        reply.verdict = Verdict::rings_refused;
        log_.write(LogLevel::warning, "a same-host peer was refused: " + rings.status().message());
    } else {
        link.rings = *std::move(rings);
        link.wake_me = std::move(descriptors[1]);
        link.wake_peer = std::move(descriptors[2]);
        // The peer's nonce lives until the peer has our answer.
        samehost::identify_peer(link, request.proof);
        reply.proof = {reinterpret_cast<std::uint64_t>(nonce_->bytes.data()), *nonce_};
    }
    const Status sent = samehost::send_with_descriptors(
        socket, {reinterpret_cast<const std::uint8_t*>(&reply), sizeof(reply)}, {});
    if (sent && reply.verdict == Verdict::welcome) on_link_(request.token, std::move(link));
}

}  // namespace mc
