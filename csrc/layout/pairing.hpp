// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "core/status.hpp"
#include "layout/pool.hpp"

// Which planes of two pools hold the same things. Used by match.cpp and cover.cpp.
namespace mc {

// Which elements of a plane: all, or its K or V half.
enum class Half : std::uint8_t { whole, k, v };

std::uint32_t elements_of(const Plane& plane, Half half);
std::uint32_t first_element_of(const Plane& plane, Half half);

// Finds a pool's planes by (layer, kind), in the order of their heads. The pool must outlive it.
class PlaneIndex {
  public:
    explicit PlaneIndex(const Pool& pool);

    [[nodiscard]] const Pool& pool() const { return *pool_; }
    [[nodiscard]] std::span<const std::uint32_t> find(std::uint32_t layer, PlaneKind kind) const;

  private:
    const Pool* pool_;
    std::map<std::pair<std::uint32_t, PlaneKind>, std::vector<std::uint32_t>> planes_;
};

// `part` of a plane is `half` of planes of `kind` in another pool.
struct Counterpart {
    Half part;
    PlaneKind kind;
    Half half;
};

// What in `pool` can be paired with a plane of `kind` in `layer`: the same kind directly, so that
// merging survives, else the other form of K and V.
std::vector<Counterpart> counterparts(const PlaneIndex& pool, std::uint32_t layer, PlaneKind kind);

// layout_mismatch for the pool of this name.
Status mismatch(const Pool& pool, const std::string& what);

// Compares the elements of a source plane with those of a plane of the pool `destination_pool`.
Status check_elements(const Plane& source, Half source_half, const Pool& destination_pool,
                      const Plane& destination, Half destination_half);
Status check_fingerprints(const Pool& source, const Pool& destination);

}  // namespace mc
