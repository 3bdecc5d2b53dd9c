// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <deque>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "layout/page_table.hpp"
#include "layout/pool.hpp"

namespace mc::simulation {

// What a worker's pool holds of a model.
struct Shape {
    std::string name = "kv";
    std::uint32_t first_layer = 0, layers = 2;
    std::uint32_t first_head = 0, heads = 2;
    std::uint32_t page_size = 4, page_count = 256;
    std::optional<std::int32_t> null_page{};
};

// A pool with memory behind it. Every byte of a token follows from the tag, the layer, the head and
// the token, so that bytes which came from elsewhere show.
class Memory {
  public:
    explicit Memory(const Shape& shape);
    Memory(Memory&&) = default;

    [[nodiscard]] const Pool& pool() const { return pool_; }

    // Free pages; those given back last come last. The test fails if there are too few, or if
    // somebody wrote to them while they were free.
    std::vector<std::int32_t> take(std::size_t count);
    void give_back(std::span<const std::int32_t> pages);  // and spoil what they hold
    [[nodiscard]] std::size_t free_pages() const { return free_.size(); }
    // Bytes of the free pages that were written to since they were given back.
    [[nodiscard]] std::size_t trespasses() const;

    // Writes the pattern of `tag` for `tokens` into the pages, the first of which holds
    // `first_token`.
    void fill(std::string_view tag, std::span<const std::int32_t> pages, std::uint32_t first_token,
              TokenRange tokens = {0, UINT32_MAX});
    void spoil(std::span<const std::int32_t> pages);
    // Number of bytes of `tokens` that differ from the pattern of `tag`.
    [[nodiscard]] std::size_t wrong_bytes(std::string_view tag, std::span<const std::int32_t> pages,
                                          std::uint32_t first_token, TokenRange tokens) const;

  private:
    [[nodiscard]] std::size_t trespasses(std::span<const std::int32_t> pages) const;
    template <typename Visit>
    void for_each_byte(std::string_view tag, std::span<const std::int32_t> pages,
                       std::uint32_t first_token, Visit visit) const;

    Pool pool_;
    std::vector<std::vector<std::uint8_t>> planes_;
    std::deque<std::int32_t> free_;
};

}  // namespace mc::simulation
