// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "core/status.hpp"

namespace mc {

// Tokens [first, end) of a request.
struct TokenRange {
    std::uint32_t first = 0;
    std::uint32_t end = 0;

    [[nodiscard]] std::uint32_t count() const { return end - first; }
    [[nodiscard]] bool empty() const { return first >= end; }
    bool operator==(const TokenRange&) const = default;
};

// Consecutive pages for consecutive tokens.
struct PageRun {
    std::uint32_t first_page = 0;  // page id
    std::uint32_t pages = 0;
    std::uint32_t before = 0;  // pages of the same range in front of this run

    bool operator==(const PageRun&) const = default;
};

// The pages of one part, in token order. Not thread-safe; a Slice copies what it needs.
class PageTable {
  public:
    // The first page holds token `first_token`, which must be a multiple of `page_size`.
    PageTable(std::uint32_t page_size, std::uint32_t page_count,
              std::optional<std::int32_t> null_page, std::uint32_t first_token = 0);

    // Adds pages behind the present ones; fails, adding none, if an id is neither the null page nor
    // in [0, page_count), or if token numbers would not fit 32 bits.
    Status append(std::span<const std::int32_t> pages);
    // Drops the pages that hold only tokens >= `token`.
    void truncate(std::uint32_t token);

    [[nodiscard]] std::uint32_t page_size() const { return page_size_; }
    [[nodiscard]] std::uint32_t page_count() const { return page_count_; }
    [[nodiscard]] std::span<const std::int32_t> pages() const { return pages_; }
    [[nodiscard]] TokenRange tokens() const;  // that have a page here, null pages included
    [[nodiscard]] bool is_null(std::int32_t page) const {
        return null_page_ && page == *null_page_;
    }

    // The parts of `range` that lie on pages that exist and are not null, in order.
    [[nodiscard]] std::vector<TokenRange> present(TokenRange range) const;
    // The pages of `range` as runs; `range` must be present. Costs O(pages in range).
    [[nodiscard]] Result<std::vector<PageRun>> runs(TokenRange range) const;
    // The same, behind the runs that are in `out` already. Adds none when it fails.
    Status append_runs(TokenRange range, std::vector<PageRun>& out) const;

  private:
    std::uint32_t page_size_;
    std::uint32_t page_count_;
    std::optional<std::int32_t> null_page_;
    std::uint32_t first_token_;
    std::vector<std::int32_t> pages_;
};

// The parts of `left` that `right` holds too; both sorted and disjoint, as is the result.
std::vector<TokenRange> intersect(std::span<const TokenRange> left,
                                  std::span<const TokenRange> right);
std::uint64_t count_tokens(std::span<const TokenRange> ranges);

}  // namespace mc
