// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "core/status.hpp"
#include "transport/arrival.hpp"

namespace mc {

// Takes the byte stream of one TCP lane apart. Small batches are read many at a time into a staging
// buffer and scattered from there; batches for large segments are read straight into the pages.
class TcpReceiver {
  public:
    explicit TcpReceiver(Arrival& arrival);

    // Reads what has arrived, at most about `budget` bytes. Fails with `peer_lost` at the end of
    // the stream and with `protocol` when it is malformed.
    Status receive(int socket, std::uint64_t budget);

  private:
    [[nodiscard]] std::size_t staged() const { return end_ - begin_; }
    Status parse();
    // One system call: true when it took all that had been asked for, so that more may be waiting.
    Result<bool> read_staged(int socket, std::uint64_t& total);
    Result<bool> read_direct(int socket, std::uint64_t& total);

    Arrival& arrival_;
    std::unique_ptr<std::uint8_t[]> staging_;
    std::size_t begin_ = 0;  // of what is read and not placed
    std::size_t end_ = 0;
    // The batch under way, or the last one, goes straight into pages. Behind it only a header is
    // read ahead, because what is read behind that would have to be copied once more.
    bool direct_ = false;
};

}  // namespace mc
