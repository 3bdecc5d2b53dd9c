// SPDX-License-Identifier: Apache-2.0
#include "transport/event_loop.hpp"

#include <pthread.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <system_error>
#include <utility>

namespace mc {
namespace {

constexpr std::uint64_t kWakeKey = UINT64_MAX;  // no watch has it: descriptors are not negative

std::uint64_t key_of(int fd, std::uint32_t generation) {
    return (std::uint64_t{generation} << 32) | static_cast<std::uint32_t>(fd);
}

}  // namespace

void FileDescriptor::reset(int fd) {
    if (fd_ >= 0) ::close(fd_);
    fd_ = fd;
}

EventLoop::EventLoop()
    : epoll_(::epoll_create1(EPOLL_CLOEXEC)), wake_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
    epoll_event event{};
    event.events = EPOLLIN | EPOLLET;  // every write is an event of its own: nobody has to read
    event.data.u64 = kWakeKey;
    // A failure here shows in start(), which finds a descriptor missing.
    if (epoll_ && wake_ && ::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, wake_.get(), &event) != 0) {
        wake_.reset();
    }
}

EventLoop::~EventLoop() { stop(); }

Status EventLoop::start(std::string thread_name, Duration busy_poll) {
    busy_poll_ = busy_poll;
    if (!epoll_ || !wake_) {
        return {Code::resource_exhausted,
                "cannot make an event loop: no file descriptor left (raise 'ulimit -n')"};
    }
    // Signals belong to the application's threads.
    sigset_t all;
    sigset_t before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    Status status;
    try {
        thread_ = std::thread([this, name = std::move(thread_name)] {
            pthread_setname_np(pthread_self(), name.substr(0, 15).c_str());  // the kernel's limit
            thread_id_ = std::this_thread::get_id();
            run();
        });
    } catch (const std::system_error& error) {
        status =
            Status(Code::resource_exhausted, std::string("cannot start a thread: ") + error.what());
    }
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
    return status;
}

void EventLoop::stop() {
    std::vector<Task> never_run;
    {
        const std::lock_guard lock(mutex_);
        stopping_ = true;
        if (!thread_.joinable()) {
            stopped_ = true;
            never_run.swap(posted_);
            return;
        }
    }
    wake();
    thread_.join();
}

bool EventLoop::post(Task task) {
    {
        const std::lock_guard lock(mutex_);
        if (stopped_) return false;
        posted_.push_back(std::move(task));
        if (!asleep_) return true;
        asleep_ = false;
    }
    wake();
    return true;
}

void EventLoop::wake() {
    const std::uint64_t one = 1;
    [[maybe_unused]] const ssize_t written = ::write(wake_.get(), &one, sizeof(one));
}

bool EventLoop::in_loop_thread() const { return thread_id_ == std::this_thread::get_id(); }

Status EventLoop::watch(int fd, std::uint32_t events, Handler handler) {
    const std::uint32_t generation = ++generation_;
    epoll_event event{};
    event.events = events;
    event.data.u64 = key_of(fd, generation);
    if (::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event) != 0) {
        return errno_status("cannot watch a descriptor", errno);
    }
    watches_[fd] = std::make_shared<Watch>(Watch{generation, std::move(handler)});
    return {};
}

Status EventLoop::change(int fd, std::uint32_t events) {
    const auto found = watches_.find(fd);
    if (found == watches_.end()) return {Code::internal, "the descriptor is not watched"};
    epoll_event event{};
    event.events = events;
    event.data.u64 = key_of(fd, found->second->generation);
    if (::epoll_ctl(epoll_.get(), EPOLL_CTL_MOD, fd, &event) != 0) {
        return errno_status("cannot change what is watched of a descriptor", errno);
    }
    return {};
}

void EventLoop::unwatch(int fd) {
    if (watches_.erase(fd) == 0) return;
    ::epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, fd, nullptr);
}

void EventLoop::set_timer(std::optional<Instant> when, Task task) {
    timer_ = when;
    timer_task_ = std::move(task);
}

int EventLoop::wait_milliseconds() const {
    if (!timer_) return -1;
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(*timer_ - now()).count();
    return static_cast<int>(std::clamp<std::int64_t>(left, 0, 1000 * 3600));
}

void EventLoop::run() {
    std::array<epoll_event, 64> events;
    std::vector<Task> tasks;
    for (;;) {
        bool stopping = false;
        bool idle = false;
        {
            const std::lock_guard lock(mutex_);
            tasks.swap(posted_);
            stopping = stopping_;
            idle = tasks.empty() && !stopping && now() >= busy_until_;
            asleep_ = idle;
        }
        // With something in hand the descriptors are only looked at, so that neither starves the
        // other.
        const int count = ::epoll_wait(epoll_.get(), events.data(), static_cast<int>(events.size()),
                                       idle ? wait_milliseconds() : 0);
        if (idle) {
            const std::lock_guard lock(mutex_);
            asleep_ = false;
            tasks.swap(posted_);
        }
        const bool found = !tasks.empty() || count > 0;
        run_tasks(tasks);
        for (int i = 0; i < count; ++i) dispatch(events[i].data.u64, events[i].events);
        run_timer();
        if (found) {
            busy_until_ = now() + busy_poll_;
        } else if (!idle) {
            std::this_thread::yield();  // whoever else wants this core has it first
        }
        if (stopping) {
            const std::lock_guard lock(mutex_);
            stopped_ = posted_.empty();  // from here on post() refuses: what it took has run
            if (stopped_) return;
        }
    }
}

void EventLoop::run_tasks(std::vector<Task>& tasks) {
    for (Task& task : tasks) {
        task();
        task = nullptr;  // what it captured goes before the next one runs
    }
    tasks.clear();
}

void EventLoop::run_timer() {
    if (!timer_ || now() < *timer_) return;
    timer_.reset();
    const Task task = std::exchange(timer_task_, nullptr);
    if (task) task();
}

void EventLoop::dispatch(std::uint64_t key, std::uint32_t events) {
    if (key == kWakeKey) return;
    const auto found = watches_.find(static_cast<int>(key & UINT32_MAX));
    if (found == watches_.end() || found->second->generation != (key >> 32)) return;
    const std::shared_ptr<Watch> watch = found->second;  // outlives an unwatch() inside the handler
    watch->handler(events);
}

}  // namespace mc
