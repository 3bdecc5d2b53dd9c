// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "transport/push_path.hpp"
#include "transport/tcp/tcp_receiver.hpp"
#include "transport/tcp/tcp_sender.hpp"

namespace mc {

// One TCP connection that carries batches both ways.
class TcpLane final : public PushPath {
  public:
    // `socket` is connected, non-blocking and past the handshake: the next byte either way is a
    // batch header. To be made and destroyed in the loop's thread.
    TcpLane(EventLoop& loop, FileDescriptor socket, Sinks& sinks, OnFailure on_failure, Log& log);
    ~TcpLane() override;

    [[nodiscard]] PathKind kind() const override { return PathKind::tcp; }

  protected:
    Status advance() override;
    void release() override;

  private:
    FileDescriptor socket_;
    TcpSender sender_;
    TcpReceiver receiver_;
    std::uint32_t watched_ = 0;
};

}  // namespace mc
