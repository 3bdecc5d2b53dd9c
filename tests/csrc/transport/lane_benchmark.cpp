// SPDX-License-Identifier: Apache-2.0
// What the paths cost: scattered blocks from one process to another, beside one-thread memcpy of
// the same list and beside two raw TCP streams, all in the same run. Rounds are interleaved, so
// that whatever else the machine does hits all alike. Prints medians: processor seconds of both
// processes per GB, and GB/s.
//
//     lane_benchmark [rounds] [block bytes...]
//
// ONLY="memcpy shm" in the environment chooses methods, RING_BYTES=... the size of a ring.
#include <fcntl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <ctime>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "transport/support/links.hpp"
#include "transport/support/rig.hpp"

namespace mc::testing {
namespace {

constexpr std::uint64_t kBytes = 128U << 20;  // of one transfer
constexpr std::size_t kStreamBuffer = 256U << 10;
constexpr std::size_t kVectors = 1024;

double cpu_seconds() {
    timespec used{};
    ::clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &used);
    return static_cast<double>(used.tv_sec) + 1e-9 * static_cast<double>(used.tv_nsec);
}

struct Sample {
    double seconds = 0;
    double cpu = 0;
};

// One way to move the list, set up and warm.
struct Method {
    std::string name;
    std::function<Sample()> run;
    std::vector<Sample> samples;
};

Pages::Shape shape_of(std::uint64_t block) { return {kBytes / block, block, false, block}; }

std::vector<Segment> segments_of(const Pages& pages) {
    std::vector<Segment> all(kBytes / 64);
    Cursor cursor(pages.slice(), 0, pages.bytes());
    all.resize(cursor.next(all));
    return all;
}

template <typename Work>
Sample measure(Work work, const std::function<double()>& other_cpu = [] { return 0.0; }) {
    const double cpu_before = cpu_seconds() + other_cpu();
    const Instant start = now();
    work();
    const double seconds = to_seconds(now() - start);
    return {seconds, cpu_seconds() + other_cpu() - cpu_before};
}

Method path_method(PathKind kind, std::uint64_t block, std::size_t ring_bytes) {
    auto rig = std::make_shared<Rig>(kind, Far::process,
                                     Parts{{shape_of(block)}, {shape_of(block)}}, ring_bytes);
    rig->grant(1);
    const auto move = [rig] {
        if (!rig->move({rig->piece(1, 0)})) std::abort();
    };
    rig->destination(0).clear();
    move();
    if (!rig->destination(0).holds(0)) std::abort();
    return {std::string(to_string(kind)),
            [rig, move] { return measure(move, [rig] { return rig->far().cpu_seconds(); }); },
            {}};
}

Method memcpy_method(std::uint64_t block) {
    auto from = std::make_shared<Pages>(shape_of(block), 1);
    auto to = std::make_shared<Pages>(shape_of(block), 2);
    from->fill(0);
    auto work = [from, to, sources = segments_of(*from), targets = segments_of(*to)] {
        // Both lists are cut alike, but where two blocks happen to touch.
        CopyPlan plan(Cursor(from->slice(), 0, from->bytes()), Cursor(to->slice(), 0, to->bytes()));
        std::vector<Span> spans(kBytes / 64);
        spans.resize(plan.next(spans));
        return measure([&] {
            for (const Span& span : spans) {
                std::memcpy(reinterpret_cast<void*>(span.destination),
                            reinterpret_cast<const void*>(span.source), span.length);
            }
        });
    };
    work();
    return {"memcpy", work, {}};
}

// The two streams that anybody would write first: blocking sockets, no headers.
void transfer_vectors(int socket, const std::vector<Segment>& segments, bool sending) {
    std::vector<iovec> vectors;
    for (const Segment& each : segments) {
        vectors.push_back({reinterpret_cast<void*>(each.address), each.length});
    }
    std::size_t first = 0;
    while (first < vectors.size()) {
        msghdr message{};
        message.msg_iov = &vectors[first];
        message.msg_iovlen = std::min(kVectors, vectors.size() - first);
        const ssize_t count =
            sending ? ::sendmsg(socket, &message, MSG_NOSIGNAL) : ::recvmsg(socket, &message, 0);
        if (count <= 0) ::_exit(1);
        auto left = static_cast<std::size_t>(count);
        while (left > 0 && left >= vectors[first].iov_len) left -= vectors[first++].iov_len;
        if (left > 0) {
            vectors[first].iov_base = static_cast<char*>(vectors[first].iov_base) + left;
            vectors[first].iov_len -= left;
        }
    }
}

void transfer_packed(int socket, const std::vector<Segment>& segments, bool sending) {
    static std::vector<char> buffer(kStreamBuffer);
    std::size_t first = 0;
    while (first < segments.size()) {
        std::size_t last = first;
        std::size_t bytes = 0;
        while (last < segments.size() && bytes + segments[last].length <= buffer.size()) {
            if (sending) {
                std::memcpy(&buffer[bytes], reinterpret_cast<const void*>(segments[last].address),
                            segments[last].length);
            }
            bytes += segments[last++].length;
        }
        for (std::size_t done = 0; done < bytes;) {
            const ssize_t count = sending
                                      ? ::send(socket, &buffer[done], bytes - done, MSG_NOSIGNAL)
                                      : ::recv(socket, &buffer[done], bytes - done, MSG_WAITALL);
            if (count <= 0) ::_exit(1);
            done += static_cast<std::size_t>(count);
        }
        std::size_t at = 0;
        for (; first < last; ++first) {
            if (!sending) {
                std::memcpy(reinterpret_cast<void*>(segments[first].address), &buffer[at],
                            segments[first].length);
            }
            at += segments[first].length;
        }
    }
}

Method stream_method(const std::string& name, std::uint64_t block,
                     void (*transfer)(int, const std::vector<Segment>&, bool)) {
    auto [near, far] = tcp_pair();
    auto [near_wire, far_wire] = Wire::pair();
    ::fcntl(near.get(), F_SETFL, 0);
    ::fcntl(far.get(), F_SETFL, 0);
    const pid_t child = ::fork();
    if (child == 0) {
        ::prctl(PR_SET_PDEATHSIG, SIGKILL);
        near_wire.close();
        Pages pages(shape_of(block), 1);
        pages.fill(0);
        const std::vector<Segment> segments = segments_of(pages);
        while (const auto go = far_wire.get<bool>()) {
            if (*go) transfer(far.get(), segments, true);
            far_wire.put(cpu_seconds());
        }
        ::_exit(0);
    }
    auto pages = std::make_shared<Pages>(shape_of(block), 2);
    auto wire = std::make_shared<Wire>(std::move(near_wire));
    auto socket = std::make_shared<FileDescriptor>(std::move(near));
    const auto move = [transfer, wire, socket, segments = segments_of(*pages)] {
        wire->put(true);
        transfer(socket->get(), segments, false);
        wire->get<double>();
    };
    move();
    if (!pages->holds(0)) std::abort();
    const auto far_cpu = [wire] {
        wire->put(false);
        return wire->get<double>().value_or(0);
    };
    return {name, [move, far_cpu, pages] { return measure(move, far_cpu); }, {}};
}

double median(std::vector<double> values) {
    std::sort(values.begin(), values.end());
    return values[values.size() / 2];
}

void run(std::uint64_t block, int rounds, std::size_t ring_bytes) {
    const std::pair<const char*, std::function<Method()>> all[] = {
        {"memcpy", [&] { return memcpy_method(block); }},
        {"shm", [&] { return path_method(PathKind::shm, block, ring_bytes); }},
        {"cma", [&] { return path_method(PathKind::cma, block, ring_bytes); }},
        {"tcp", [&] { return path_method(PathKind::tcp, block, ring_bytes); }},
        {"raw packed", [&] { return stream_method("raw packed", block, transfer_packed); }},
        {"raw writev", [&] { return stream_method("raw writev", block, transfer_vectors); }},
    };
    const char* const only = std::getenv("ONLY");
    std::vector<Method> methods;
    for (const auto& [name, make] : all) {
        if (only == nullptr || std::strstr(only, name) != nullptr) methods.push_back(make());
    }
    for (int round = 0; round < rounds; ++round) {
        for (Method& method : methods) method.samples.push_back(method.run());
    }
    const double gigabytes = static_cast<double>(kBytes) / 1e9;
    std::map<std::string, std::pair<double, double>> results;
    for (const Method& method : methods) {
        std::vector<double> speed;
        std::vector<double> cpu;
        for (const Sample& sample : method.samples) {
            speed.push_back(gigabytes / sample.seconds);
            cpu.push_back(sample.cpu / gigabytes);
        }
        results[method.name] = {median(cpu), median(speed)};
    }
    const auto reference = [&](const std::string& name) {
        if (name != "tcp") return results["memcpy"];
        return std::pair{std::min(results["raw packed"].first, results["raw writev"].first),
                         std::max(results["raw packed"].second, results["raw writev"].second)};
    };
    for (const Method& method : methods) {
        const auto [cpu, speed] = results[method.name];
        const auto [cpu_reference, speed_reference] = reference(method.name);
        std::printf("%8lu B  %-10s  %6.3f CPU-s/GB (%.2fx)  %6.2f GB/s (%.2fx)\n", block,
                    method.name.c_str(), cpu, cpu / cpu_reference, speed, speed / speed_reference);
    }
    std::fflush(stdout);
}

}  // namespace
}  // namespace mc::testing

int main(int argc, char** argv) {
    const int rounds = argc > 1 ? std::atoi(argv[1]) : 5;
    std::vector<std::uint64_t> blocks = {256, 1024, 4096, 65536};
    if (argc > 2) blocks.clear();
    for (int i = 2; i < argc; ++i) blocks.push_back(std::strtoull(argv[i], nullptr, 10));
    const char* ring = std::getenv("RING_BYTES");
    const std::size_t ring_bytes = ring != nullptr ? std::strtoull(ring, nullptr, 10) : 2U << 20;
    for (const std::uint64_t block : blocks) mc::testing::run(block, rounds, ring_bytes);
    while (::waitpid(-1, nullptr, WNOHANG) > 0) {
    }
    return 0;
}
