// SPDX-License-Identifier: Apache-2.0
#include "layout/pairing.hpp"

#include <algorithm>

namespace mc {
namespace {

constexpr const char* kCure = "; start both sides with the same model and KV cache format";

}  // namespace

std::uint32_t elements_of(const Plane& plane, Half half) {
    return half == Half::whole ? plane.elements : plane.elements / 2;
}

std::uint32_t first_element_of(const Plane& plane, Half half) {
    return half == Half::v ? plane.elements / 2 : 0;
}

PlaneIndex::PlaneIndex(const Pool& pool) : pool_(&pool) {
    for (std::uint32_t i = 0; i < pool.planes.size(); ++i) {
        planes_[{pool.planes[i].layer, pool.planes[i].kind}].push_back(i);
    }
    for (auto& [key, planes] : planes_) {
        std::sort(planes.begin(), planes.end(), [&](std::uint32_t left, std::uint32_t right) {
            return pool.planes[left].first_head < pool.planes[right].first_head;
        });
    }
}

std::span<const std::uint32_t> PlaneIndex::find(std::uint32_t layer, PlaneKind kind) const {
    const auto found = planes_.find({layer, kind});
    if (found == planes_.end()) return {};
    return found->second;
}

std::vector<Counterpart> counterparts(const PlaneIndex& pool, std::uint32_t layer, PlaneKind kind) {
    if (!pool.find(layer, kind).empty()) return {{Half::whole, kind, Half::whole}};
    switch (kind) {
        case PlaneKind::kv:
            return {{Half::k, PlaneKind::k, Half::whole}, {Half::v, PlaneKind::v, Half::whole}};
        case PlaneKind::k: return {{Half::whole, PlaneKind::kv, Half::k}};
        case PlaneKind::v: return {{Half::whole, PlaneKind::kv, Half::v}};
        default: return {};
    }
}

Status mismatch(const Pool& pool, const std::string& what) {
    return {Code::layout_mismatch, "pool \"" + pool.name + "\": " + what};
}

Status check_elements(const Plane& source, Half source_half, const Pool& destination_pool,
                      const Plane& destination, Half destination_half) {
    const auto differ = [&](const std::string& what, const std::string& there,
                            const std::string& here) {
        return mismatch(destination_pool, describe(destination) + ": the source has " + what + " " +
                                              there + ", the destination " + here + kCure);
    };
    if (source.dtype != destination.dtype) return differ("dtype", source.dtype, destination.dtype);
    if (source.element_bytes != destination.element_bytes) {
        return differ("element bytes", std::to_string(source.element_bytes),
                      std::to_string(destination.element_bytes));
    }
    const std::uint32_t there = elements_of(source, source_half);
    const std::uint32_t here = elements_of(destination, destination_half);
    if (there != here) return differ("head dimension", std::to_string(there), std::to_string(here));
    return {};
}

Status check_fingerprints(const Pool& source, const Pool& destination) {
    if (source.fingerprint == destination.fingerprint) return {};
    return mismatch(destination, "the source holds '" + source.fingerprint +
                                     "', the destination '" + destination.fingerprint + "'" +
                                     kCure);
}

}  // namespace mc
