// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

#include "core/clock.hpp"
#include "core/status.hpp"

namespace mc {

// A file descriptor that is closed with its owner. All descriptors made here are close-on-exec.
class FileDescriptor {
  public:
    FileDescriptor() = default;
    explicit FileDescriptor(int fd) : fd_(fd) {}
    FileDescriptor(FileDescriptor&& other) noexcept : fd_(other.release()) {}
    FileDescriptor& operator=(FileDescriptor&& other) noexcept {
        reset(other.release());
        return *this;
    }
    ~FileDescriptor() { reset(); }

    [[nodiscard]] int get() const { return fd_; }
    explicit operator bool() const { return fd_ >= 0; }
    int release() {
        const int fd = fd_;
        fd_ = -1;
        return fd;
    }
    void reset(int fd = -1);

  private:
    int fd_ = -1;
};

// One thread with an epoll set, a queue of posted functions and one timer. It sleeps in the kernel
// when there is nothing to do: idle CPU is zero. All members but post(), stop() and
// in_loop_thread() may be called only from the loop's own thread (inside handlers and posted
// functions), or before start().
class EventLoop {
  public:
    using Handler = std::function<void(std::uint32_t events)>;  // EPOLLIN, EPOLLOUT, EPOLLHUP...
    using Task = std::function<void()>;

    EventLoop();
    ~EventLoop();  // stops
    EventLoop(const EventLoop&) = delete;
    EventLoop& operator=(const EventLoop&) = delete;

    Status start(std::string thread_name);
    void stop();  // runs what was posted, then ends and joins the thread; idempotent

    // Runs the task in the loop's thread; wakes it with one eventfd write if it may be asleep.
    // After stop() the task is destroyed without running.
    void post(Task task);
    [[nodiscard]] bool in_loop_thread() const;

    Status watch(int fd, std::uint32_t events, Handler handler);  // level-triggered
    Status change(int fd, std::uint32_t events);
    void unwatch(int fd);  // safe inside any handler; the handler of fd is not called afterwards

    // The one timer: called once at or after `when`; setting it again replaces it.
    void set_timer(std::optional<Instant> when, Task task);
};

}  // namespace mc
