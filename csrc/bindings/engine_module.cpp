// SPDX-License-Identifier: Apache-2.0
// The `_engine` extension: the engine's objects for Python. No call waits with the GIL held, and no
// engine thread ever takes it.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "engine/engine.hpp"

namespace py = pybind11;
using namespace py::literals;

namespace mc {
namespace {

using PageArray = py::array_t<std::int32_t, py::array::c_style | py::array::forcecast>;
using AddressArray = py::array_t<std::uint64_t, py::array::c_style | py::array::forcecast>;

// A failure becomes the exception of mooncake_connector.errors that bears its code's name.
[[noreturn]] void raise(const Status& status) {
    const py::object type = py::module_::import("mooncake_connector.errors")
                                .attr("exception_for")(std::string(to_string(status.code())));
    PyErr_SetString(type.ptr(), status.message().c_str());
    throw py::error_already_set();
}

void check(const Status& status) {
    if (!status) raise(status);
}

template <typename T>
T take(Result<T> result) {
    if (!result) raise(result.status());
    return std::move(*result);
}

std::vector<std::int32_t> to_pages(const PageArray& pages) {
    if (pages.ndim() != 1)
        raise(Status(Code::invalid_argument, "page ids must be a one-dimensional array"));
    return {pages.data(), pages.data() + pages.size()};
}

std::vector<PoolPages> to_parts(
    const std::vector<std::tuple<std::string, PageArray, std::uint32_t>>& parts) {
    std::vector<PoolPages> converted;
    converted.reserve(parts.size());
    for (const auto& [pool, pages, first_token] : parts)
        converted.push_back({pool, to_pages(pages), first_token});
    return converted;
}

std::vector<Segment> to_segments(const AddressArray& addresses, const AddressArray& lengths) {
    if (addresses.ndim() != 1 || lengths.ndim() != 1 || addresses.size() != lengths.size()) {
        raise(Status(Code::invalid_argument,
                     "addresses and lengths must be one-dimensional arrays of equal size"));
    }
    std::vector<Segment> segments(static_cast<std::size_t>(addresses.size()));
    for (std::size_t i = 0; i < segments.size(); ++i)
        segments[i] = {addresses.data()[i], lengths.data()[i]};
    return segments;
}

MemoryKind to_memory(const py::object& device) {
    if (device.is_none()) return {};
    return {MemoryKind::Type::cuda, device.cast<std::int32_t>()};
}

// Reads a mooncake_connector.pools.PoolSpec.
Pool to_pool(const py::object& spec) {
    Pool pool;
    pool.name = spec.attr("name").cast<std::string>();
    pool.fingerprint = spec.attr("fingerprint").cast<std::string>();
    pool.page_size = spec.attr("page_size").cast<std::uint32_t>();
    pool.page_count = spec.attr("page_count").cast<std::uint32_t>();
    if (const py::object null_page = spec.attr("null_page"); !null_page.is_none())
        pool.null_page = null_page.cast<std::int32_t>();
    for (const py::handle& item : spec.attr("planes")) {
        Plane plane;
        plane.layer = item.attr("layer").cast<std::uint32_t>();
        const auto kind = plane_kind(item.attr("kind").cast<std::string>());
        if (!kind)
            raise(Status(Code::invalid_argument, "plane kind \"" +
                                                     item.attr("kind").cast<std::string>() +
                                                     "\" is not one of k, v, kv, mla, state, aux"));
        plane.kind = *kind;
        plane.dtype = item.attr("dtype").cast<std::string>();
        plane.element_bytes = item.attr("element_bytes").cast<std::uint32_t>();
        plane.base = item.attr("address").cast<std::uint64_t>();
        plane.page_stride = item.attr("page_stride").cast<std::uint64_t>();
        plane.token_stride = item.attr("token_stride").cast<std::uint64_t>();
        plane.head_stride = item.attr("head_stride").cast<std::uint64_t>();
        plane.element_stride = item.attr("element_stride").cast<std::uint64_t>();
        plane.heads = item.attr("heads").cast<std::uint32_t>();
        plane.elements = item.attr("elements").cast<std::uint32_t>();
        plane.first_head = item.attr("first_head").cast<std::uint32_t>();
        const MemoryKind memory = to_memory(item.attr("device"));
        if (!pool.planes.empty() && !(memory == pool.memory))
            raise(Status(Code::invalid_argument, "the planes of a pool must lie on one device"));
        pool.memory = memory;
        pool.planes.push_back(std::move(plane));
    }
    return pool;
}

EngineOptions to_options(const py::object& config, const std::vector<std::string>& key_ids) {
    EngineOptions options;
    for (const std::string& id : key_ids) {
        Token key;
        if (id.size() != key.bytes.size())
            raise(Status(Code::invalid_argument, "a key's id has 16 bytes"));
        std::copy(id.begin(), id.end(), key.bytes.begin());
        options.protocol.keys.push_back(key);
    }
    const auto seconds = [&](const char* name) {
        return from_seconds(config.attr(name).cast<double>());
    };
    options.host = config.attr("host").cast<std::string>();
    options.port = config.attr("port").cast<std::uint16_t>();
    if (const py::object advertise = config.attr("advertise"); !advertise.is_none())
        options.advertise = advertise.cast<std::string>();
    if (const py::object paths = config.attr("paths"); !paths.is_none()) {
        options.paths.fill(false);
        for (const py::handle& path : paths) {
            for (std::size_t i = 0; i < kPathKinds; ++i) {
                if (to_string(static_cast<PathKind>(i)) == path.cast<std::string>())
                    options.paths[i] = true;
            }
        }
    }
    options.strict = config.attr("strict").cast<bool>();
    options.cma_any = config.attr("cma").cast<std::string>() == "any";
    if (const py::object folder = config.attr("ipc_dir"); !folder.is_none())
        options.ipc_dir = folder.cast<std::string>();
    options.io_threads = config.attr("io_threads").cast<std::size_t>();
    options.copy_threads = config.attr("copy_threads").cast<std::size_t>();
    options.tcp_lanes = config.attr("tcp_lanes").cast<std::size_t>();
    options.protocol.verify = config.attr("verify").cast<bool>();
    options.cma_min_span = config.attr("cma_min_span").cast<std::size_t>();
    options.eager_bytes = config.attr("eager_bytes").cast<std::size_t>();
    options.ring_bytes = config.attr("ring_bytes").cast<std::size_t>();
    options.busy_poll = seconds("busy_poll");
    options.protocol.unknown_timeout = seconds("unknown_timeout");
    options.protocol.peer_timeout = seconds("peer_timeout");
    options.protocol.ping_interval = seconds("ping_interval");
    const auto level = config.attr("log_level").cast<std::string>();
    options.log_level = level == "debug"     ? LogLevel::debug
                        : level == "info"    ? LogLevel::info
                        : level == "warning" ? LogLevel::warning
                                             : LogLevel::error;
    return options;
}

// In slices, between which Python handles signals: Ctrl-C ends it.
std::optional<Outcome> wait(Engine& engine, const Transfer& transfer, Duration timeout) {
    constexpr Duration kSlice = std::chrono::milliseconds(100);
    const Instant ends = now() + timeout;
    while (true) {
        const Duration left = std::max(Duration::zero(), ends - now());
        std::optional<Outcome> outcome = [&] {
            const py::gil_scoped_release release;
            return engine.wait(transfer, std::min(left, kSlice));
        }();
        if (outcome || left <= kSlice) return outcome;
        if (PyErr_CheckSignals() != 0) throw py::error_already_set();
    }
}

py::bytes to_bytes(std::span<const std::uint8_t> bytes) {
    return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

py::object next_proof(Engine& engine) {
    const std::optional<ProofQueue::Task> task = [&] {
        const py::gil_scoped_release release;
        return engine.next_proof();
    }();
    if (!task) return py::none();
    const auto& [session, request] = *task;
    py::object proof = py::none();
    if (request.proof) proof = to_bytes(request.proof->mac);
    return py::make_tuple(session.value, to_bytes(request.key.bytes), to_bytes(request.statement),
                          proof);
}

void answer_proof(Engine& engine, std::uint64_t session, const std::optional<py::bytes>& answer) {
    Result<Proof> result = Status(Code::authentication_failed,
                                  "the peer could not prove that it has this engine's key");
    if (answer) {
        const auto mac = static_cast<std::string_view>(*answer);
        Proof proof;
        if (mac.size() != proof.mac.size())
            raise(Status(Code::invalid_argument, "a proof has 32 bytes"));
        std::copy(mac.begin(), mac.end(), proof.mac.begin());
        result = proof;
    }
    check(engine.answer_proof(SessionId{session}, result));
}

py::object to_outcome(const std::optional<Outcome>& outcome) {
    if (!outcome) return py::none();
    py::object path = py::none();
    if (outcome->path) path = py::cast(std::string(to_string(*outcome->path)));
    return py::make_tuple(std::string(to_string(outcome->status.code())), outcome->status.message(),
                          outcome->bytes, outcome->spans, path, outcome->seconds);
}

py::dict by_path(const std::array<std::uint64_t, kPathKinds>& bytes) {
    py::dict named;
    for (std::size_t i = 0; i < kPathKinds; ++i) {
        if (bytes[i] > 0)
            named[py::str(std::string(to_string(static_cast<PathKind>(i))))] = bytes[i];
    }
    return named;
}

py::list peers(Engine& engine) {
    Result<std::vector<PeerInfo>> infos = [&] {
        const py::gil_scoped_release release;
        return engine.peers();
    }();
    py::list list;
    for (const PeerInfo& info : take(std::move(infos))) {
        list.append(py::dict("address"_a = info.address, "instance_id"_a = info.instance,
                             "state"_a = info.state, "path"_a = info.path, "notes"_a = info.notes,
                             "outgoing"_a = info.outgoing, "bytes"_a = by_path(info.bytes)));
    }
    return list;
}

py::dict stats(Engine& engine) {
    Result<Engine::Stats> counted = [&] {
        const py::gil_scoped_release release;
        return engine.stats();
    }();
    const Engine::Stats now_open = take(std::move(counted));
    return py::dict("open_sends"_a = now_open.sends, "open_recvs"_a = now_open.recvs,
                    "open_grants_out"_a = now_open.grants_out,
                    "open_grants_in"_a = now_open.grants_in, "parked_recvs"_a = now_open.parked,
                    "same_host_over_tcp"_a = now_open.same_host_over_tcp);
}

}  // namespace
}  // namespace mc

PYBIND11_MODULE(_engine, module) {
    using namespace mc;
    module.doc() = "The C++ engine; use mooncake_connector.Engine.";

    py::class_<Transfer, std::shared_ptr<Transfer>>(module, "Transfer")
        .def_property_readonly("id", [](const Transfer& transfer) { return transfer.id.value; })
        .def_property_readonly("kind", [](const Transfer& transfer) {
            static constexpr const char* kNames[] = {"send", "recv", "write", "read"};
            return kNames[static_cast<std::size_t>(transfer.kind)];
        });

    py::class_<Engine>(module, "Engine")
        .def(py::init([](const py::object& config, const std::vector<std::string>& key_ids) {
                 return take(Engine::create(to_options(config, key_ids)));
             }),
             "config"_a, "key_ids"_a)
        .def_property_readonly("address", &Engine::address)
        .def_property_readonly("instance_id",
                               [](const Engine& engine) { return engine.instance().hex(); })
        .def("register_pool",
             [](Engine& engine, const py::object& spec) {
                 check(engine.register_pool(to_pool(spec)));
             })
        .def("register_memory",
             [](Engine& engine, std::uint64_t address, std::uint64_t bytes,
                const py::object& device, bool read, bool write) {
                 check(engine.register_memory({address, bytes, to_memory(device), read, write}));
             })
        .def(
            "unregister_memory",
            [](Engine& engine, std::uint64_t address) { check(engine.unregister_memory(address)); })
        .def("send", [](Engine& engine, const py::bytes& tag,
                        double deadline) { return take(engine.send(tag, from_seconds(deadline))); })
        .def("append",
             [](Engine& engine, const Transfer& send, std::string pool, const PageArray& pages,
                std::uint32_t first_token) {
                 check(engine.append(send, {std::move(pool), to_pages(pages), first_token}));
             })
        .def("mark_ready", [](Engine& engine, const Transfer& send,
                              std::uint32_t tokens) { check(engine.mark_ready(send, tokens)); })
        .def("rewind", [](Engine& engine, Transfer& send,
                          std::uint32_t tokens) { check(engine.rewind(send, tokens)); })
        .def("finish",
             [](Engine& engine, const Transfer& send,
                const std::vector<std::tuple<std::string, PageArray, std::uint32_t>>& parts) {
                 check(engine.finish(send, to_parts(parts)));
             })
        .def("abort", [](Engine& engine, const Transfer& send,
                         std::string reason) { check(engine.abort(send, std::move(reason))); })
        .def("matched", &Engine::matched)
        .def("recv",
             [](Engine& engine, std::vector<std::string> senders, const py::bytes& tag,
                const std::vector<std::tuple<std::string, PageArray, std::uint32_t>>& parts,
                std::uint32_t first_token, std::uint32_t tokens,
                const std::vector<std::tuple<std::string, PageArray, std::uint32_t>>& rows,
                std::uint64_t request, std::uint32_t receiver_index, std::uint32_t receiver_count,
                double deadline) {
                 return take(engine.recv({std::move(senders), tag, to_parts(parts), first_token,
                                          tokens, to_parts(rows), request, receiver_index,
                                          receiver_count, from_seconds(deadline)}));
             })
        .def("cancel",
             [](Engine& engine, const Transfer& transfer) { check(engine.cancel(transfer)); })
        .def("write",
             [](Engine& engine, std::string address, const AddressArray& source,
                const AddressArray& destination, const AddressArray& lengths, double deadline) {
                 return take(engine.write(std::move(address), to_segments(source, lengths),
                                          to_segments(destination, lengths),
                                          from_seconds(deadline)));
             })
        .def(
            "read",
            [](Engine& engine, std::string address, const AddressArray& source,
               const AddressArray& destination, const AddressArray& lengths, double deadline) {
                return take(engine.read(std::move(address), to_segments(source, lengths),
                                        to_segments(destination, lengths), from_seconds(deadline)));
            })
        .def("poll", &Engine::poll)
        .def("outcome",
             [](Engine& engine, const Transfer& transfer) {
                 return to_outcome(engine.outcome(transfer));
             })
        .def("wait",
             [](Engine& engine, const Transfer& transfer, double timeout) {
                 return to_outcome(wait(engine, transfer, from_seconds(timeout)));
             })
        .def("next_proof", &next_proof)
        .def("answer_proof", &answer_proof)
        .def("peers", &peers)
        .def("stats", &stats)
        .def("take_log",
             [](Engine& engine) {
                 std::vector<std::pair<int, std::string>> lines;
                 for (LogLine& line : engine.take_log())
                     lines.emplace_back((static_cast<int>(line.level) + 1) * 10,
                                        std::move(line.text));
                 return lines;
             })
        .def("close", &Engine::close, py::call_guard<py::gil_scoped_release>());
}
