// SPDX-License-Identifier: Apache-2.0
// The layout as plain functions over arrays: what a transfer would copy, pages to and from a flat
// buffer, digests of pages. mooncake_connector/_layout.pyi documents them.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "layout/copy_plan.hpp"
#include "layout/digest.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace mc {
namespace {

using PageArray = nb::ndarray<const std::int32_t, nb::shape<-1>, nb::c_contig, nb::device::cpu>;
using ByteArray = nb::ndarray<const std::uint8_t, nb::shape<-1>, nb::c_contig, nb::device::cpu>;
using SpanArray = nb::ndarray<const std::uint64_t, nb::shape<-1, 3>, nb::c_contig, nb::device::cpu>;
using TokenPair = std::pair<std::uint32_t, std::uint32_t>;

static_assert(sizeof(Span) == 3 * sizeof(std::uint64_t), "a row of a span array is a Span");

// A failure becomes the exception of mooncake_connector.errors that bears its code's name.
[[noreturn]] void raise(const Status& failure) {
    const std::string code(to_string(failure.code()));
    const nb::object kind =
        nb::module_::import_("mooncake_connector.errors").attr("exception_for")(code.c_str());
    PyErr_SetString(kind.ptr(), failure.message().c_str());
    throw nb::python_error();
}

void check(const Status& status) {
    if (!status) raise(status);
}

template <typename T>
T checked(Result<T> result) {
    if (!result) raise(result.status());
    return *std::move(result);
}

template <typename T>
T attribute(nb::handle object, const char* name) {
    T value;
    if (!nb::try_cast(object.attr(name), value)) {
        const nb::object type = object.type().attr("__name__");
        raise({Code::invalid_argument,
               nb::cast<std::string>(type) + "." + name +
                   " is not valid: " + nb::cast<std::string>(nb::repr(object.attr(name)))});
    }
    return value;
}

Plane to_plane(nb::handle object) {
    Plane plane;
    plane.layer = attribute<std::uint32_t>(object, "layer");
    const auto kind = plane_kind(attribute<std::string>(object, "kind"));
    if (!kind) raise({Code::invalid_argument, "Plane.kind is not valid"});
    plane.kind = *kind;
    plane.dtype = attribute<std::string>(object, "dtype");
    plane.element_bytes = attribute<std::uint32_t>(object, "element_bytes");
    plane.base = attribute<std::uint64_t>(object, "address");
    plane.page_stride = attribute<std::uint64_t>(object, "page_stride");
    plane.token_stride = attribute<std::uint64_t>(object, "token_stride");
    plane.head_stride = attribute<std::uint64_t>(object, "head_stride");
    plane.element_stride = attribute<std::uint64_t>(object, "element_stride");
    plane.heads = attribute<std::uint32_t>(object, "heads");
    plane.elements = attribute<std::uint32_t>(object, "elements");
    plane.first_head = attribute<std::uint32_t>(object, "first_head");
    return plane;
}

// Reads a mooncake_connector.pools.PoolSpec.
Pool to_pool(nb::handle object) {
    Pool pool;
    pool.name = attribute<std::string>(object, "name");
    pool.fingerprint = attribute<std::string>(object, "fingerprint");
    pool.page_size = attribute<std::uint32_t>(object, "page_size");
    pool.page_count = attribute<std::uint32_t>(object, "page_count");
    pool.null_page = attribute<std::optional<std::int32_t>>(object, "null_page");
    for (const nb::handle plane : object.attr("planes")) pool.planes.push_back(to_plane(plane));
    if (const auto device = attribute<std::optional<std::int32_t>>(object, "device")) {
        pool.memory = {MemoryKind::Type::cuda, *device};
    }
    return pool;
}

void require_host(const Pool& pool) {
    if (pool.memory.type == MemoryKind::Type::host) return;
    raise({Code::unsupported, "pool \"" + pool.name + "\" lies on CUDA device " +
                                  std::to_string(pool.memory.device) +
                                  "; this function reads and writes host memory only"});
}

PageTable to_table(const Pool& pool, const PageArray& pages, std::uint32_t start) {
    check(validate(pool));
    if (start % pool.page_size != 0) {
        raise({Code::invalid_argument, "the first page starts at token " + std::to_string(start) +
                                           ", which is no multiple of the page size " +
                                           std::to_string(pool.page_size)});
    }
    PageTable table(pool.page_size, pool.page_count, pool.null_page, start);
    check(table.append({pages.data(), pages.size()}));
    return table;
}

// Arrays of another type are refused: converting page ids could change them.
PageArray page_array(const nb::handle& object) {
    PageArray pages;
    if (!nb::try_cast(object, pages, false))
        throw nb::type_error("page ids must be a C-contiguous int32 array");
    return pages;
}

// An array that owns `rows`.
nb::object to_array(std::vector<Span> rows) {
    auto owned = std::make_unique<std::vector<Span>>(std::move(rows));
    auto* const data = reinterpret_cast<std::uint64_t*>(owned->data());
    const std::size_t count = owned->size();
    const nb::capsule owner(owned.release(), [](void* vector) noexcept {
        delete static_cast<std::vector<Span>*>(vector);
    });
    return nb::cast(
        nb::ndarray<nb::numpy, std::uint64_t, nb::shape<-1, 3>>(data, {count, 3}, owner));
}

// Calls visit(spans) with portions of what one sender's plan yields.
template <typename Visit>
Status for_each_span(const Pool& source, const PageTable& source_pages, const Pool& destination,
                     const PageTable& destination_pages, const Match& match, TokenRange tokens,
                     Visit visit) {
    const auto from = Walk::make(source, match, Side::source);
    if (!from) return from.status();
    const auto to = Walk::make(destination, match, Side::destination);
    if (!to) return to.status();
    for (const TokenRange range :
         intersect(source_pages.present(tokens), destination_pages.present(tokens))) {
        const auto read = Slice::make(*from, source_pages, range);
        if (!read) return read.status();
        const auto written = Slice::make(*to, destination_pages, range);
        if (!written) return written.status();
        CopyPlan plan(Cursor(*read, 0, (*read)->bytes()), Cursor(*written, 0, (*written)->bytes()));
        std::array<Span, 256> spans;
        std::size_t count = 0;
        do {
            count = plan.next(spans);
            visit(std::span(spans).first(count));
        } while (count == spans.size());
    }
    return {};
}

// What `plan` and `count_spans` do with each sender's spans: collect(span portion) as they come,
// then result() with the GIL held.
template <typename Collector>
nb::list plan_with(const nb::sequence& sources, const nb::handle& destination,
                   const PageArray& destination_pages, TokenPair tokens, std::uint32_t source_start,
                   std::uint32_t destination_start, std::uint32_t receiver_index) {
    std::vector<Pool> pools;
    std::vector<PageTable> tables;
    for (const nb::handle source : sources) {
        pools.push_back(to_pool(source[0]));
        tables.push_back(to_table(pools.back(), page_array(source[1]), source_start));
    }
    const Pool wanted = to_pool(destination);
    const PageTable wanted_pages = to_table(wanted, destination_pages, destination_start);
    std::vector<const Pool*> pointers;
    pointers.reserve(pools.size());
    for (const Pool& pool : pools) pointers.push_back(&pool);
    const std::vector<Match> matches = checked(match_pools(pointers, wanted, receiver_index));
    nb::list results;
    for (std::size_t i = 0; i < pools.size(); ++i) {
        Collector collector;
        if (!matches[i].pairs.empty()) {
            Status outcome;
            {
                const nb::gil_scoped_release release;
                outcome =
                    for_each_span(pools[i], tables[i], wanted, wanted_pages, matches[i],
                                  {tokens.first, tokens.second},
                                  [&](std::span<const Span> spans) { collector.collect(spans); });
            }
            check(outcome);
        }
        results.append(collector.result());
    }
    return results;
}

class SpanCollector {
  public:
    void collect(std::span<const Span> spans) {
        spans_.insert(spans_.end(), spans.begin(), spans.end());
    }
    nb::object result() { return to_array(std::move(spans_)); }

  private:
    std::vector<Span> spans_;
};

class SpanCounter {
  public:
    void collect(std::span<const Span> spans) { count_ += spans.size(); }
    [[nodiscard]] nb::object result() const { return nb::int_(count_); }

  private:
    std::size_t count_ = 0;
};

// All or some tokens of pages in the pool's canonical order.
std::shared_ptr<const Slice> to_slice(const nb::handle& object, const PageArray& pages,
                                      const std::optional<TokenPair>& tokens) {
    const Pool pool = to_pool(object);
    require_host(pool);
    const PageTable table = to_table(pool, pages, 0);
    const auto walk = checked(Walk::make(pool, canonical_match(pool), Side::source));
    const TokenRange range = tokens ? TokenRange{tokens->first, tokens->second} : table.tokens();
    return checked(Slice::make(walk, table, range));
}

template <typename Visit>
void for_each_segment(Cursor cursor, Visit visit) {
    std::array<Segment, 64> segments;
    while (const std::size_t count = cursor.next(segments)) {
        for (const Segment& segment : std::span(segments).first(count)) visit(segment);
    }
}

nb::object gather(const nb::handle& pool, const PageArray& pages,
                  const std::optional<TokenPair>& tokens, std::uint64_t offset,
                  std::optional<std::uint64_t> length) {
    const auto slice = to_slice(pool, pages, tokens);
    const std::uint64_t available = slice->bytes() - std::min(offset, slice->bytes());
    const std::uint64_t bytes = length.value_or(available);
    if (offset > slice->bytes() || bytes > available) {
        raise({Code::invalid_argument, std::to_string(bytes) + " bytes from " +
                                           std::to_string(offset) + " on are not in the " +
                                           std::to_string(slice->bytes()) + " bytes of the pages"});
    }
    auto buffer = std::make_unique_for_overwrite<std::uint8_t[]>(bytes);
    {
        const nb::gil_scoped_release release;
        std::uint8_t* to = buffer.get();
        for_each_segment(Cursor(slice, offset, bytes), [&](const Segment& segment) {
            std::memcpy(to, reinterpret_cast<const void*>(segment.address), segment.length);
            to += segment.length;
        });
    }
    std::uint8_t* const data = buffer.release();
    const nb::capsule owner(
        data, [](void* array) noexcept { delete[] static_cast<std::uint8_t*>(array); });
    return nb::cast(nb::ndarray<nb::numpy, std::uint8_t, nb::shape<-1>>(data, {bytes}, owner));
}

void scatter(const nb::handle& pool, const PageArray& pages, const ByteArray& data,
             const std::optional<TokenPair>& tokens) {
    const auto slice = to_slice(pool, pages, tokens);
    if (data.size() != slice->bytes()) {
        raise({Code::invalid_argument, "the pages take " + std::to_string(slice->bytes()) +
                                           " bytes, but " + std::to_string(data.size()) +
                                           " were given"});
    }
    const nb::gil_scoped_release release;
    const std::uint8_t* from = data.data();
    for_each_segment(Cursor(slice, 0, slice->bytes()), [&](const Segment& segment) {
        std::memcpy(reinterpret_cast<void*>(segment.address), from, segment.length);
        from += segment.length;
    });
}

std::uint64_t digest_pages(const nb::handle& pool, const PageArray& pages,
                           const std::optional<TokenPair>& tokens) {
    const auto slice = to_slice(pool, pages, tokens);
    const nb::gil_scoped_release release;
    return digest(Cursor(slice, 0, slice->bytes()));
}

void copy(const SpanArray& spans) {
    const nb::gil_scoped_release release;
    const std::span<const Span> rows(reinterpret_cast<const Span*>(spans.data()), spans.shape(0));
    for (const Span& span : rows) {
        std::memcpy(reinterpret_cast<void*>(span.destination),
                    reinterpret_cast<const void*>(span.source), span.length);
    }
}

}  // namespace
}  // namespace mc

NB_MODULE(_layout, m) {
    const auto define_plan = [&m](const char* name, auto function) {
        m.def(name, function, "sources"_a, "destination"_a, "destination_pages"_a.noconvert(),
              nb::kw_only(), "tokens"_a, "source_start"_a = 0, "destination_start"_a = 0,
              "receiver_index"_a = 0);
    };
    define_plan("plan", &mc::plan_with<mc::SpanCollector>);
    define_plan("count_spans", &mc::plan_with<mc::SpanCounter>);
    m.def("gather", &mc::gather, "pool"_a, "pages"_a.noconvert(), "tokens"_a = nb::none(),
          "offset"_a = 0, "length"_a = nb::none());
    m.def("scatter", &mc::scatter, "pool"_a, "pages"_a.noconvert(), "data"_a.noconvert(),
          "tokens"_a = nb::none());
    m.def("digest", &mc::digest_pages, "pool"_a, "pages"_a.noconvert(), "tokens"_a = nb::none());
    m.def("copy", &mc::copy, "spans"_a.noconvert());
}
