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

// Carries control messages over one connected, non-blocking stream socket. Lives in its EventLoop's
// thread. Reading never stops, so CANCEL and PONG always get through.
class ControlChannel : public std::enable_shared_from_this<ControlChannel> {
  public:
    struct Handlers {
        std::function<void(Message)> message;
        // Bytes that are no message, or the connection's end. Called at most once, not after close().
        std::function<void(Status)> failed;
    };

    ControlChannel(EventLoop& loop, FileDescriptor socket, Handlers handlers);
    ~ControlChannel();

    Status start();  // begins to read
    void send(const Message& message);
    void close();    // sends what the kernel takes at once, then closes; idempotent

  private:
    void on_events(std::uint32_t events);
    void read();
    void parse();
    void flush();
    void fail(const Status& reason);

    EventLoop& loop_;
    FileDescriptor socket_;
    Handlers handlers_;
    Bytes in_;
    std::size_t in_used_ = 0;  // bytes of in_ that were received
    Bytes out_;
    std::size_t out_sent_ = 0;
    bool awaiting_room_ = false;
    bool flush_posted_ = false;
};

}  // namespace mc
