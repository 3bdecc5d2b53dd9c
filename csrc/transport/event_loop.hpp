// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
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
        if (this != &other) reset(other.release());
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
// when there is nothing to do: idle CPU is zero. For a short while after it had something to do it
// looks for more instead, because waking a thread costs more than most of what there is to do. All
// members but post(), stop() and in_loop_thread() may be called only from the loop's own thread
// (inside handlers and posted functions), before start(), or after stop().
class EventLoop {
  public:
    using Handler = std::function<void(std::uint32_t events)>;  // EPOLLIN, EPOLLOUT, EPOLLHUP...
    using Task = std::function<void()>;

    EventLoop();
    ~EventLoop();  // stops
    EventLoop(const EventLoop&) = delete;
    EventLoop& operator=(const EventLoop&) = delete;

    // `busy_poll`: how long it looks for more before it sleeps. Fails with resource_exhausted when
    // the kernel has no descriptor or thread left.
    Status start(std::string thread_name, Duration busy_poll = {});
    // Runs what was posted, then ends and joins the thread; idempotent. Not from the loop's thread.
    void stop();

    // Runs the task in the loop's thread; wakes it with one eventfd write if it may be asleep.
    // False once the loop has stopped: the task will not run.
    bool post(Task task);
    [[nodiscard]] bool in_loop_thread() const;

    Status watch(int fd, std::uint32_t events, Handler handler);  // level-triggered
    Status change(int fd, std::uint32_t events);
    void unwatch(int fd);  // safe inside any handler; the handler of fd is not called afterwards

    // The one timer: called once at or after `when`; setting it again replaces it.
    void set_timer(std::optional<Instant> when, Task task);

  private:
    // What epoll returns names the watch, not only the descriptor: a number that was closed and
    // given out again within one round of events must not get the events of its predecessor.
    struct Watch {
        std::uint32_t generation;
        Handler handler;
    };

    void run();
    void wake();
    [[nodiscard]] int wait_milliseconds() const;  // until the timer; -1 without one
    void run_tasks(std::vector<Task>& tasks);
    void run_timer();
    void dispatch(std::uint64_t key, std::uint32_t events);

    FileDescriptor epoll_;
    FileDescriptor wake_;
    std::thread thread_;
    std::atomic<std::thread::id> thread_id_;
    std::unordered_map<int, std::shared_ptr<Watch>> watches_;
    std::uint32_t generation_ = 0;
    Duration busy_poll_{};
    Instant busy_until_{};
    std::optional<Instant> timer_;
    Task timer_task_;

    std::mutex mutex_;  // guards what stands below
    std::vector<Task> posted_;
    bool asleep_ = false;  // the loop is, or is about to be, waiting in the kernel
    bool stopping_ = false;
    bool stopped_ = false;
};

}  // namespace mc
