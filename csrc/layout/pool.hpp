// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/status.hpp"

namespace mc {

// Where memory lives: host memory, or CUDA device `device`.
struct MemoryKind {
    enum class Type : std::uint8_t { host, cuda };
    Type type = Type::host;
    std::int32_t device = 0;

    bool operator==(const MemoryKind&) const = default;
};

enum class PlaneKind : std::uint8_t { k, v, kv, mla, state, aux };
std::string_view to_string(PlaneKind kind);
std::optional<PlaneKind> plane_kind(std::string_view name);

// One strided tensor of a pool. The element (page, token, head, element) lies at
//   base + page * page_stride + token * token_stride + head * head_stride + element *
//   element_stride
// All strides are in bytes and not negative. For kind `kv`, the first half of the elements is K and
// the second half is V.
struct Plane {
    std::uint32_t layer = 0;
    PlaneKind kind = PlaneKind::kv;
    std::string dtype;  // "bfloat16", "float8_e4m3fn", ...: compared, never interpreted
    std::uint32_t element_bytes = 1;  // size of one element
    std::uint64_t base = 0;           // address of page 0, token 0, head 0, element 0
    std::uint64_t page_stride = 0;
    std::uint64_t token_stride = 0;
    std::uint64_t head_stride = 0;
    std::uint64_t element_stride = 0;
    std::uint32_t heads = 1;
    std::uint32_t elements = 1;    // a token's elements in one head
    std::uint32_t first_head = 0;  // this plane's head 0 in the whole model

    bool operator==(const Plane&) const = default;
};

std::string describe(const Plane& plane);  // for messages: "layer 3 (kv)"

// A registered set of planes with one page count and one page size: a worker's KV cache of one
// group, its state rows, or its aux rows (then page_size is 1 and a "token" is a row).
struct Pool {
    std::string name;         // pools of two engines pair by name
    std::string fingerprint;  // model and KV format; equal shapes do not mean equal models
    MemoryKind memory;
    std::uint32_t page_size = 1;  // tokens
    std::uint32_t page_count = 0;
    std::optional<std::int32_t> null_page;  // the page id that means "no page here"
    std::vector<Plane> planes;

    bool operator==(const Pool&) const = default;
};

// Bounds that no real pool comes near; a peer's description beyond them is refused.
inline constexpr std::uint32_t kMaxPlanes = 8192;
inline constexpr std::uint32_t kMaxPageSize = 1U << 20;

// Checks extents and strides: no count or address is zero, no two elements of a plane overlap,
// every address of every page fits 64 bits, and no two planes hold the same head of one layer and
// kind. The stride of an axis with one index is never used and may be anything.
Status validate(const Pool& pool);

// Half-open range of addresses that a plane touches, for range checks. The pool must be valid.
struct AddressRange {
    std::uint64_t begin = 0;
    std::uint64_t end = 0;
};
AddressRange address_range(const Pool& pool, const Plane& plane);

}  // namespace mc
