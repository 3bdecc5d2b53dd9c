// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sys/socket.h>

#include <optional>
#include <type_traits>
#include <utility>

#include "transport/event_loop.hpp"

namespace mc::testing {

// One end of a line between the two sides of a test, for commands and answers.
class Wire {
  public:
    explicit Wire(FileDescriptor socket) : socket_(std::move(socket)) {}

    static std::pair<Wire, Wire> pair() {
        int ends[2] = {-1, -1};
        if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) != 0) std::abort();
        return {Wire(FileDescriptor(ends[0])), Wire(FileDescriptor(ends[1]))};
    }

    template <typename T>
        requires std::is_trivially_copyable_v<T>
    bool put(const T& value) const {
        return ::send(socket_.get(), &value, sizeof(value), MSG_NOSIGNAL) == sizeof(value);
    }
    // Waits; nothing when the other end is gone.
    template <typename T>
        requires std::is_trivially_copyable_v<T>
    std::optional<T> get() const {
        T value;
        if (::recv(socket_.get(), &value, sizeof(value), 0) != sizeof(value)) return std::nullopt;
        return value;
    }
    void close() { socket_.reset(); }

  private:
    FileDescriptor socket_;
};

}  // namespace mc::testing
