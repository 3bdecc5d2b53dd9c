// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <list>
#include <memory>
#include <string>

#include "core/log.hpp"
#include "transport/samehost/link.hpp"
#include "transport/spare_descriptor.hpp"

namespace mc {

// Where engines of the same host come to: a Unix socket on which a peer proves that it belongs to a
// session and shares its rings. Watched by, and belonging to, one EventLoop.
class SameHostServer {
  public:
    // Whether a session waits for this token; takes it, because a token is good for one link.
    using Admit = std::function<bool(const Token&)>;
    // The link is ready, and the peer has been told so.
    using OnLink = std::function<void(const Token&, SameHostLink)>;

    // With an empty `ipc_dir` the socket's name is abstract: it needs no file, and is seen by all
    // containers that share the network namespace. Else the socket lies in that folder, for those
    // that share only files; the folder is made with mode 0700, or must belong to this user and
    // nobody else may enter it.
    static Result<std::unique_ptr<SameHostServer>> listen(EventLoop& loop,
                                                          const std::string& ipc_dir, Admit admit,
                                                          OnLink on_link, Log& log);
    ~SameHostServer();
    SameHostServer(const SameHostServer&) = delete;
    SameHostServer& operator=(const SameHostServer&) = delete;

    // "@..." (abstract) or a path; what connect_same_host() takes.
    [[nodiscard]] const std::string& name() const { return name_; }

  private:
    SameHostServer(EventLoop& loop, Admit admit, OnLink on_link, Log& log);

    // Connections that have said nothing yet; the oldest goes when there are too many, so that
    // whoever only connects does no harm.
    static constexpr std::size_t kMaxWaiting = 64;

    void accept();
    void read_request(int socket);
    void drop(int socket);

    EventLoop& loop_;
    Admit admit_;
    OnLink on_link_;
    Log& log_;
    std::string name_;
    FileDescriptor listener_;
    SpareDescriptor spare_;
    std::list<FileDescriptor> waiting_;
    // A peer reads this from our memory to learn that it can; as fresh as the server, so that it is
    // never equal in a forked copy.
    const std::unique_ptr<const Token> nonce_ = std::make_unique<const Token>(Token::random());
};

}  // namespace mc
