// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <unordered_map>

#include "core/clock.hpp"
#include "core/log.hpp"
#include "engine/preamble.hpp"
#include "transport/spare_descriptor.hpp"
#include "transport/tcp/socket.hpp"

namespace mc {

// Listens on the engine's one port and reads the preamble of each connection. Lives in its loop's
// thread.
class Acceptor {
  public:
    using Accepted = std::function<void(FileDescriptor, const Preamble&)>;

    // `wake_at` asks for a tick() at that time.
    Acceptor(EventLoop& loop, Log& log, Accepted accepted, std::function<void(Instant)> wake_at);
    ~Acceptor();

    Status listen(const HostPort& address);  // before the loop starts
    [[nodiscard]] const HostPort& address() const { return address_; }

    // Closes connections that have not said what they are in time.
    void tick(Instant at);
    void close();

  private:
    struct Pending {
        FileDescriptor socket;
        Instant since;
        std::array<std::uint8_t, Preamble::kBytes> bytes{};
        std::size_t received = 0;
    };

    void on_connection();
    void on_bytes(int fd);
    void drop(int fd);

    static constexpr std::size_t kMaxPending =
        1024;  // connections that have not said what they are
    static constexpr Duration kPatience = std::chrono::seconds(5);

    EventLoop& loop_;
    Log& log_;
    Accepted accepted_;
    std::function<void(Instant)> wake_at_;
    FileDescriptor listener_;
    SpareDescriptor spare_;
    HostPort address_;
    std::unordered_map<int, Pending> pending_;
};

}  // namespace mc
