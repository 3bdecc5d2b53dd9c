// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "core/status.hpp"
#include "transport/push_queue.hpp"

namespace mc {

// Turns queued jobs into the byte stream of one TCP lane. Small segments are packed into a staging
// buffer, many batches to one system call; of large ones only the header is, and the kernel takes
// the bytes from the pages. The stream stays well-formed whatever happens to the pages: a batch
// whose pages are taken back midway is completed with zeros, and its job fails.
class TcpSender {
  public:
    using Finish = std::function<void(PushQueue::Finished, Status)>;

    TcpSender(PushQueue& queue, Finish finish);

    // Sends at most about `budget` bytes. `blocked`: the socket is full. `more`: the budget is
    // spent.
    enum class Outcome { idle, blocked, more };
    Result<Outcome> send(int socket, std::uint64_t budget);

    // The socket is gone: what was packed and not sent fails.
    void abandon(const Status& reason);

  private:
    [[nodiscard]] std::size_t staged() const { return end_ - begin_; }
    [[nodiscard]] std::uint64_t unsent() const { return staged() + direct_left_ + filler_left_; }
    void fill();
    bool pack();
    void begin_direct();
    void put_header(const BatchHeader& header);
    Result<bool> transmit(int socket, std::uint64_t& total);
    void sent(std::uint64_t bytes);
    void sent_direct(std::uint64_t bytes);
    void abort_direct();

    PushQueue& queue_;
    Finish finish_;
    std::unique_ptr<std::uint8_t[]> staging_;
    std::size_t begin_ = 0;  // of what is packed and not sent
    std::size_t end_ = 0;
    std::vector<PushQueue::Finished> packed_;  // jobs of which the last byte lies in the staging

    // Behind the staged bytes comes either the rest of a batch that is sent from the pages of the
    // queue's present job, or zeros in its place.
    std::uint64_t direct_left_ = 0;
    std::uint64_t filler_left_ = 0;
};

}  // namespace mc
