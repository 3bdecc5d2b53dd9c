// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>

#include "transport/push_path.hpp"
#include "transport/samehost/link.hpp"
#include "transport/shm/ring.hpp"

namespace mc {

// A pair of rings in shared memory that carries batches both ways: the sender gathers into its
// ring, the receiver scatters from it. A record is a header in a cache line of its own and the
// bytes, filled up to whole cache lines; records are published whole.
class ShmLane final : public PushPath {
  public:
    // Takes the link's socket, rings and eventfds. To be made and destroyed in the loop's thread.
    ShmLane(EventLoop& loop, SameHostLink link, Sinks& sinks, OnFailure on_failure, Log& log);
    ~ShmLane() override;

    [[nodiscard]] PathKind kind() const override { return PathKind::shm; }

  protected:
    Status advance() override;
    void release() override;

  private:
    enum class Outcome { idle, blocked, more };

    Status watch();
    // Both handle about `budget` bytes.
    Result<Outcome> receive(std::uint64_t budget);
    Result<Outcome> send(std::uint64_t budget);
    // Both return how many bytes of the ring they published.
    std::size_t put_batch(std::size_t room);
    std::size_t put_end();
    void wake_peer_if(bool sleeping);
    void hung_up();

    SameHostLink link_;
    RingProducer producer_;
    RingConsumer consumer_;
    bool watched_ = false;
};

}  // namespace mc
