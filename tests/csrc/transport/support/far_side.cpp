// SPDX-License-Identifier: Apache-2.0
#include "transport/support/far_side.hpp"

#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <condition_variable>
#include <csignal>
#include <cstdlib>
#include <ctime>
#include <future>
#include <mutex>
#include <utility>

#include "transport/cma/guard.hpp"

namespace mc::testing {
namespace {

double process_cpu_seconds() {
    timespec used{};
    ::clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &used);
    return static_cast<double>(used.tv_sec) + 1e-9 * static_cast<double>(used.tv_nsec);
}

void wait_in(EventLoop& loop, const std::function<void()>& work) {
    std::promise<void> done;
    loop.post([&] {
        work();
        done.set_value();
    });
    done.get_future().wait();
}

}  // namespace

struct FarSide::Body {
    // The sender receives nothing in these tests.
    class NoSinks final : public Sinks {
      public:
        std::shared_ptr<Sink> find(GrantId) override { return nullptr; }
        void ended(GrantId, std::uint32_t, std::uint64_t) override {}
    };

    explicit Body(const Parts& parts) {
        for (const Pages::Shape& shape : parts.sources) {
            const auto number = static_cast<std::uint32_t>(pages.size());
            pages.push_back(std::make_unique<Pages>(shape, 2 * number + 1));
        }
    }

    void run(Wire wire, const MakePath& make_path) {
        for (std::size_t i = 0; i < pages.size(); ++i)
            pages[i]->fill(static_cast<std::uint32_t>(i));
        hold = std::make_shared<Hold>();
        guard = std::make_unique<Guard>(hold);
        EventLoop loop;
        if (!loop.start("far side")) std::abort();
        wait_in(loop, [&] { path = make_path(loop, sinks); });
        for (bool more = true; more;) {
            const std::optional<Command> command = wire.get<Command>();
            more = command && obey(*command, wire, loop);
        }
        wait_in(loop, [&] { path.reset(); });
        loop.stop();
    }

    bool obey(const Command& command, Wire& wire, EventLoop& loop) {
        switch (command.kind) {
            case Command::Kind::push: submit(command.piece, loop); return true;
            case Command::Kind::end:
                loop.post([this, piece = command.piece] { path->end(piece.grant, piece.epoch); });
                return true;
            case Command::Kind::results: return report(wire);
            case Command::Kind::guard:
                return wire.put(GuardInfo{guard->address(), guard->expected(0)});
            case Command::Kind::advance:
                guard->advance(command.value);
                hold->advance(command.value);
                hold->when_drained([&] { wire.put(true); });
                return true;
            case Command::Kind::close_hold:
                guard->revoke();
                hold->close([&] { wire.put(true); });
                return true;
            case Command::Kind::refill:
                for (const auto& part : pages) part->fill(command.value);
                return wire.put(true);
            case Command::Kind::cpu: return wire.put(process_cpu_seconds());
            case Command::Kind::die:
                if (in_process) ::_exit(0);
                wait_in(loop, [&] { path.reset(); });
                return true;
            case Command::Kind::quit: return false;
        }
        return false;
    }

    void submit(const Piece& piece, EventLoop& loop) {
        const std::lock_guard lock(mutex);
        const std::size_t number = ended.size();
        ended.emplace_back();
        Push job{piece, pages[piece.part]->slice(), hold,
                 [this, number](Status status, Moved moved) {
                     const std::lock_guard inner(mutex);
                     JobResult result{status.code(), moved, ended[number].has_value()};
                     ended[number] = result;
                     changed.notify_all();
                 }};
        loop.post([this, shared = std::make_shared<Push>(std::move(job))] {
            path->push(std::move(*shared));
        });
    }

    bool report(Wire& wire) {
        std::unique_lock lock(mutex);
        changed.wait(lock, [this] {
            for (const auto& each : ended) {
                if (!each) return false;
            }
            return true;
        });
        for (const auto& each : ended) {
            if (!wire.put(*each)) return false;
        }
        ended.clear();
        return true;
    }

    std::vector<std::unique_ptr<Pages>> pages;
    std::shared_ptr<Hold> hold;
    std::unique_ptr<Guard> guard;
    NoSinks sinks;
    std::unique_ptr<Path> path;
    bool in_process = false;
    std::mutex mutex;
    std::condition_variable changed;
    std::vector<std::optional<JobResult>> ended;
};

FarSide::FarSide(Far where, const Parts& parts, const MakePath& make_path,
                 const std::function<void()>& in_child)
    : wire_(FileDescriptor()) {
    auto [near, far] = Wire::pair();
    wire_ = std::move(near);
    auto body = std::make_shared<Body>(parts);  // a forked child has it at the same addresses
    for (const auto& pages : body->pages) sources_.push_back(pages->slice());
    if (where == Far::thread) {
        pid_ = ::getpid();
        thread_ = std::thread([body, far_end = std::make_shared<Wire>(std::move(far)), make_path] {
            body->run(std::move(*far_end), make_path);
        });
        return;
    }
    pid_ = ::fork();
    if (pid_ < 0) std::abort();
    if (pid_ == 0) {
        ::prctl(PR_SET_PDEATHSIG, SIGKILL);
        wire_.close();
        in_child();
        body->in_process = true;
        body->run(std::move(far), make_path);
        ::_exit(0);
    }
}

FarSide::~FarSide() {
    wire_.put(Command{});
    wire_.close();
    if (thread_.joinable()) thread_.join();
    if (pid_ == ::getpid() || pid_ == 0) return;
    ::kill(pid_, SIGCONT);
    ::waitpid(pid_, nullptr, 0);
}

void FarSide::command(const Command& command) {
    if (command.kind == Command::Kind::push) ++pushed_;
    wire_.put(command);
}

void FarSide::end(GrantId grant, std::uint32_t epoch) {
    Piece piece;
    piece.grant = grant;
    piece.epoch = epoch;
    command({Command::Kind::end, piece, 0});
}

std::vector<JobResult> FarSide::results() {
    command({Command::Kind::results, {}, 0});
    std::vector<JobResult> all;
    for (std::size_t left = std::exchange(pushed_, 0); left > 0; --left) {
        const std::optional<JobResult> result = wire_.get<JobResult>();
        if (!result) break;
        all.push_back(*result);
    }
    return all;
}

GuardInfo FarSide::guard() {
    command({Command::Kind::guard, {}, 0});
    return wire_.get<GuardInfo>().value_or(GuardInfo{});
}

void FarSide::advance(std::uint32_t epoch) {
    command({Command::Kind::advance, {}, epoch});
    wire_.get<bool>();
}

void FarSide::close_hold() {
    command({Command::Kind::close_hold, {}, 0});
    wire_.get<bool>();
}

void FarSide::refill(std::uint32_t seed) {
    command({Command::Kind::refill, {}, seed});
    wire_.get<bool>();
}

double FarSide::cpu_seconds() {
    command({Command::Kind::cpu, {}, 0});
    return wire_.get<double>().value_or(0);
}

void FarSide::die() { command({Command::Kind::die, {}, 0}); }

}  // namespace mc::testing
