// SPDX-License-Identifier: Apache-2.0
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <system_error>

#include "bindings/baseline/copies.hpp"
#include "bindings/baseline/ring.hpp"
#include "bindings/baseline/segments.hpp"
#include "bindings/baseline/streams.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace {

using mc::baseline::Segment;
using mc::baseline::Span;

using SegmentArray =
    nb::ndarray<const std::uint64_t, nb::shape<-1, 2>, nb::c_contig, nb::device::cpu>;
using SpanArray = nb::ndarray<const std::uint64_t, nb::shape<-1, 3>, nb::c_contig, nb::device::cpu>;
using RingMemory = nb::ndarray<std::uint8_t, nb::shape<-1>, nb::c_contig, nb::device::cpu>;

static_assert(sizeof(Segment) == 2 * sizeof(std::uint64_t));
static_assert(sizeof(Span) == 3 * sizeof(std::uint64_t));

std::span<const Segment> rows(const SegmentArray& array) {
    return {reinterpret_cast<const Segment*>(array.data()), array.shape(0)};
}

std::span<const Span> rows(const SpanArray& array) {
    return {reinterpret_cast<const Span*>(array.data()), array.shape(0)};
}

// Both ends of a stream have the same Python signature.
template <void (*Transfer)(int, std::span<const Segment>)>
void stream(int socket, const SegmentArray& segments) {
    const nb::gil_scoped_release release;
    Transfer(socket, rows(segments));
}

template <void (*Transfer)(std::byte*, std::span<const Segment>)>
void ring(const RingMemory& memory, const SegmentArray& segments) {
    if (memory.size() < mc::baseline::ring_bytes()) {
        throw nb::value_error("the ring's memory is smaller than RING_BYTES");
    }
    const nb::gil_scoped_release release;
    Transfer(reinterpret_cast<std::byte*>(memory.data()), rows(segments));
}

// OSError picks its subclass (TimeoutError, ConnectionResetError, ...) by the error number.
void translate(const std::exception_ptr& failure, void* /*payload*/) {
    try {
        std::rethrow_exception(failure);
    } catch (const std::system_error& error) {
        const nb::object arguments = nb::make_tuple(error.code().value(), error.what());
        PyErr_SetObject(PyExc_OSError, arguments.ptr());
    }
}

}  // namespace

NB_MODULE(_baseline, module) {
    module.doc() =
        "Plain ways to move scattered bytes: what `mooncake-connector bench` compares with.";
    nb::register_exception_translator(translate);

    module.attr("RING_BYTES") = mc::baseline::ring_bytes();

    module.def(
        "copy",
        [](const SpanArray& spans) {
            const nb::gil_scoped_release release;
            mc::baseline::copy(rows(spans));
        },
        "spans"_a.noconvert());
    module.def(
        "write_process",
        [](int pid, const SpanArray& spans) {
            const nb::gil_scoped_release release;
            mc::baseline::write_process(pid, rows(spans));
        },
        "pid"_a, "spans"_a.noconvert());

    module.def("send_vectored", &stream<mc::baseline::send_vectored>, "socket"_a,
               "segments"_a.noconvert());
    module.def("receive_vectored", &stream<mc::baseline::receive_vectored>, "socket"_a,
               "segments"_a.noconvert());
    module.def("send_packed", &stream<mc::baseline::send_packed>, "socket"_a,
               "segments"_a.noconvert());
    module.def("receive_packed", &stream<mc::baseline::receive_packed>, "socket"_a,
               "segments"_a.noconvert());

    module.def("send_through_ring", &ring<mc::baseline::send_through_ring>, "memory"_a.noconvert(),
               "segments"_a.noconvert());
    module.def("receive_through_ring", &ring<mc::baseline::receive_through_ring>,
               "memory"_a.noconvert(), "segments"_a.noconvert());
}
