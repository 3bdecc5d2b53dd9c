// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>

#include "core/bytes.hpp"
#include "protocol/messages.hpp"
#include "transport/event_loop.hpp"

namespace mc {

// Carries control messages over a connected, non-blocking stream socket. Lives in its EventLoop's
// thread. Reading never stops, so CANCEL and PONG always get through.
//
// Two engines on one host move their control messages from TCP to a Unix socket, which costs half
// as much: each side says so with an empty frame, the last on its way over the old socket. The old
// one stays open; its end is still the session's end.
class ControlChannel : public std::enable_shared_from_this<ControlChannel> {
  public:
    struct Handlers {
        std::function<void(Message)> message;
        // Bytes that are no message, or the connection's end. Called at most once, not after
        // close().
        std::function<void(Status)> failed;
        // Whether the handshake is over, and with it the limit kMaxGreetingBytes.
        std::function<bool()> greeted;
    };

    ControlChannel(EventLoop& loop, FileDescriptor socket, Handlers handlers);
    ~ControlChannel();

    Status start();  // begins to read
    void send(const Message& message);
    // Both sides do, with the two ends of one connection.
    Status move_to(FileDescriptor socket);
    void hear_out();  // hands on what has arrived; the end of the connection is not a failure here
    void close();     // sends what the kernel takes at once, then closes; idempotent

  private:
    void on_events(int socket, std::uint32_t events);
    void read(int socket);
    Result<bool> receive(int socket);  // false: nothing is there at present
    Status parse();
    [[nodiscard]] bool waits_for_old() const;
    void post_flush();
    Status send_what_fits();  // what the kernel takes without blocking
    void flush();
    Status watch(int socket, std::uint32_t events);
    [[nodiscard]] std::uint32_t watched_events() const;  // of socket_
    void fail(const Status& reason);

    EventLoop& loop_;
    FileDescriptor socket_;      // that is written to
    FileDescriptor old_socket_;  // after move_to()
    bool peer_moved_ = false;    // the peer writes to the new socket
    Handlers handlers_;
    Bytes in_;
    std::size_t in_used_ = 0;  // bytes of in_ that were received
    Bytes out_;
    std::size_t out_sent_ = 0;
    bool awaiting_room_ = false;
    bool flush_posted_ = false;
};

}  // namespace mc
