// SPDX-License-Identifier: Apache-2.0
#include "layout/pool.hpp"

#include <algorithm>
#include <array>
#include <limits>
#include <tuple>

namespace mc {
namespace {

constexpr std::array<std::string_view, 6> kKindNames{"k", "v", "kv", "mla", "state", "aux"};

Status invalid(const Pool& pool, const std::string& what) {
    return {Code::invalid_argument, "pool \"" + pool.name + "\": " + what};
}

// Number of bytes from the plane's first to behind its last one, or why there is no such number.
// An axis may only step over whole extents of the axes with smaller strides: every permutation and
// slice of a dense tensor does, and what does not would put two elements in one place.
Result<std::uint64_t> extent(const Pool& pool, const Plane& plane) {
    struct Stride {
        std::uint64_t bytes;
        std::uint64_t count;
        std::string_view axis;
    };
    std::array<Stride, 4> strides{{{plane.element_stride, plane.elements, "element"},
                                   {plane.head_stride, plane.heads, "head"},
                                   {plane.token_stride, pool.page_size, "token"},
                                   {plane.page_stride, pool.page_count, "page"}}};
    std::stable_sort(strides.begin(), strides.end(), [](const Stride& left, const Stride& right) {
        return left.bytes < right.bytes;
    });
    std::uint64_t bytes = plane.element_bytes;
    for (const Stride& stride : strides) {
        if (stride.count == 1) continue;  // its stride is never used
        if (stride.bytes < bytes) {
            return invalid(pool, describe(plane) + ": a " + std::string(stride.axis) +
                                     " stride of " + std::to_string(stride.bytes) +
                                     " bytes makes elements overlap; at least " +
                                     std::to_string(bytes) + " are needed");
        }
        std::uint64_t steps = 0;
        if (__builtin_mul_overflow(stride.bytes, stride.count - 1, &steps) ||
            __builtin_add_overflow(bytes, steps, &bytes)) {
            return invalid(pool, describe(plane) + ": its extent does not fit 64 bits");
        }
    }
    return bytes;
}

Status validate(const Pool& pool, const Plane& plane) {
    if (static_cast<std::size_t>(plane.kind) >= kKindNames.size())
        return invalid(pool, "a plane has no known kind");
    if (plane.dtype.empty()) return invalid(pool, describe(plane) + ": the dtype is missing");
    if (plane.base == 0) return invalid(pool, describe(plane) + ": the address is zero");
    if (plane.element_bytes == 0 || plane.heads == 0 || plane.elements == 0) {
        return invalid(pool,
                       describe(plane) + ": element bytes, heads and elements must not be zero");
    }
    if (plane.heads > std::numeric_limits<std::uint32_t>::max() - plane.first_head) {
        return invalid(pool, describe(plane) + ": head numbers do not fit 32 bits");
    }
    if (plane.kind == PlaneKind::kv && plane.elements % 2 != 0) {
        return invalid(pool, describe(plane) + ": K and V must be equal halves, but there are " +
                                 std::to_string(plane.elements) + " elements");
    }
    const Result<std::uint64_t> bytes = extent(pool, plane);
    if (!bytes) return bytes.status();
    if (*bytes > std::numeric_limits<std::uint64_t>::max() - plane.base) {
        return invalid(pool, describe(plane) + ": its addresses do not fit 64 bits");
    }
    return {};
}

}  // namespace

std::string describe(const Plane& plane) {
    return "layer " + std::to_string(plane.layer) + " (" + std::string(to_string(plane.kind)) + ")";
}

std::string_view to_string(PlaneKind kind) {
    const auto index = static_cast<std::size_t>(kind);
    return index < kKindNames.size() ? kKindNames[index] : "unknown";
}

std::optional<PlaneKind> plane_kind(std::string_view name) {
    const auto* const found = std::find(kKindNames.begin(), kKindNames.end(), name);
    if (found == kKindNames.end()) return std::nullopt;
    return static_cast<PlaneKind>(found - kKindNames.begin());
}

Status validate(const Pool& pool) {
    if (pool.name.empty()) return invalid(pool, "the name is missing");
    if (pool.page_size == 0 || pool.page_size > kMaxPageSize) {
        return invalid(pool, "the page size is " + std::to_string(pool.page_size) +
                                 " tokens; it must be 1 to " + std::to_string(kMaxPageSize));
    }
    if (pool.page_count == 0 || pool.page_count > std::numeric_limits<std::int32_t>::max()) {
        return invalid(pool, "the page count is " + std::to_string(pool.page_count) +
                                 "; it must be 1 to 2147483647, because page ids are int32");
    }
    if (pool.planes.empty() || pool.planes.size() > kMaxPlanes) {
        return invalid(pool, "it has " + std::to_string(pool.planes.size()) +
                                 " planes; it must have 1 to " + std::to_string(kMaxPlanes));
    }
    std::vector<const Plane*> sorted;
    sorted.reserve(pool.planes.size());
    for (const Plane& plane : pool.planes) {
        MC_RETURN_IF_ERROR(validate(pool, plane));
        sorted.push_back(&plane);
    }
    std::sort(sorted.begin(), sorted.end(), [](const Plane* left, const Plane* right) {
        return std::tie(left->layer, left->kind, left->first_head) <
               std::tie(right->layer, right->kind, right->first_head);
    });
    for (std::size_t i = 1; i < sorted.size(); ++i) {
        const Plane& previous = *sorted[i - 1];
        const Plane& plane = *sorted[i];
        if (previous.layer == plane.layer && previous.kind == plane.kind &&
            plane.first_head < previous.first_head + previous.heads) {
            return invalid(pool, "two planes hold head " + std::to_string(plane.first_head) +
                                     " of " + describe(plane));
        }
    }
    return {};
}

AddressRange address_range(const Pool& pool, const Plane& plane) {
    const Result<std::uint64_t> bytes = extent(pool, plane);
    return {plane.base, plane.base + (bytes ? *bytes : 0)};
}

}  // namespace mc
