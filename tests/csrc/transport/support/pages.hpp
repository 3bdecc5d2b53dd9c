// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "layout/slice.hpp"

namespace mc::testing {

// Scattered blocks in memory of their own: one side of a part. Between blocks lie bytes that nobody
// may touch. Both sides of a part have equally many bytes, cut in different places.
class Pages {
  public:
    struct Shape {
        std::uint64_t blocks = 0;
        std::uint64_t block_bytes = 0;
        bool contiguous = false;  // one segment in place of scattered blocks
        std::uint64_t gap = 24;   // bytes between blocks
    };
    Pages(Shape shape, std::uint32_t seed);

    [[nodiscard]] const std::shared_ptr<const Slice>& slice() const { return slice_; }
    [[nodiscard]] std::uint64_t bytes() const { return slice_->bytes(); }

    // Writes the content that `seed` stands for: it depends on the place in canonical order alone.
    void fill(std::uint32_t seed);
    void clear();
    // Whether canonical bytes [offset, offset + length) are the content of `seed`...
    [[nodiscard]] bool holds(std::uint32_t seed, std::uint64_t offset, std::uint64_t length) const;
    [[nodiscard]] bool holds(std::uint32_t seed) const { return holds(seed, 0, bytes()); }
    // ...and whether nothing outside of them has been written since the last fill() or clear().
    [[nodiscard]] bool untouched_but(std::uint64_t offset, std::uint64_t length) const;
    [[nodiscard]] bool untouched() const { return untouched_but(0, 0); }

  private:
    template <typename Visit>
    void walk(std::uint64_t offset, std::uint64_t length, Visit visit) const;

    std::vector<std::uint8_t> memory_;
    std::shared_ptr<const Slice> slice_;
};

}  // namespace mc::testing
