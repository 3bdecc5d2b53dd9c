// SPDX-License-Identifier: Apache-2.0
#include "layout/page_table.hpp"

#include <algorithm>
#include <limits>
#include <string>

namespace mc {
namespace {

bool starts_run(std::span<const std::int32_t> pages, std::size_t i) {
    return static_cast<std::uint32_t>(pages[i]) != static_cast<std::uint32_t>(pages[i - 1]) + 1;
}

// Both loops are free of branches that depend on the pages: the first is vectorised, so that a
// contiguous request costs next to nothing, and the second does not stumble over runs of uneven
// length.
void find_runs(std::span<const std::int32_t> pages, std::vector<PageRun>& out) {
    std::uint32_t starts = 0;
    for (std::size_t i = 1; i < pages.size(); ++i) starts += starts_run(pages, i) ? 1 : 0;
    const std::size_t first = out.size();
    out.resize(first + starts + 1);
    if (starts > 0) {
        PageRun* run = &out[first];
        PageRun* const last = &out.back();
        for (std::size_t i = 1; run != last; ++i) {
            run[1].before = static_cast<std::uint32_t>(i);  // stays if a run starts here
            run += starts_run(pages, i) ? 1 : 0;
        }
    }
    auto end = static_cast<std::uint32_t>(pages.size());
    for (std::size_t i = out.size(); i-- > first;) {
        out[i].pages = end - out[i].before;
        out[i].first_page = static_cast<std::uint32_t>(pages[out[i].before]);
        end = out[i].before;
    }
}

}  // namespace

PageTable::PageTable(std::uint32_t page_size, std::uint32_t page_count,
                     std::optional<std::int32_t> null_page, std::uint32_t first_token)
    : page_size_(page_size),
      page_count_(page_count),
      null_page_(null_page),
      first_token_(first_token - first_token % page_size) {}

Status PageTable::append(std::span<const std::int32_t> pages) {
    const std::uint64_t tokens = (std::uint64_t{pages_.size()} + pages.size()) * page_size_;
    if (tokens > std::numeric_limits<std::uint32_t>::max() - first_token_) {
        return {Code::invalid_argument, std::to_string(pages_.size() + pages.size()) +
                                            " pages of " + std::to_string(page_size_) +
                                            " tokens: token numbers do not fit 32 bits"};
    }
    std::uint32_t largest = 0;  // a negative id becomes one larger than any page count
    for (const std::int32_t page : pages) {
        largest = std::max(largest, is_null(page) ? 0 : static_cast<std::uint32_t>(page));
    }
    if (largest >= page_count_) {
        return {Code::invalid_argument,
                "page " + std::to_string(static_cast<std::int32_t>(largest)) +
                    " is out of range: the pool has pages 0 to " + std::to_string(page_count_ - 1)};
    }
    pages_.insert(pages_.end(), pages.begin(), pages.end());
    return {};
}

void PageTable::truncate(std::uint32_t token) {
    const std::uint64_t kept =
        token <= first_token_ ? 0
                              : (std::uint64_t{token} - first_token_ + page_size_ - 1) / page_size_;
    if (kept < pages_.size()) pages_.resize(kept);
}

TokenRange PageTable::tokens() const {
    return {first_token_, first_token_ + static_cast<std::uint32_t>(pages_.size()) * page_size_};
}

std::vector<TokenRange> PageTable::present(TokenRange range) const {
    const TokenRange all = tokens();
    range = {std::max(range.first, all.first), std::min(range.end, all.end)};
    if (range.empty()) return {};
    const auto null_at =
        null_page_ ? std::find(pages_.begin(), pages_.end(), *null_page_) : pages_.end();
    if (null_at == pages_.end()) return {range};
    std::vector<TokenRange> ranges;
    std::uint32_t first = range.first;
    while (first < range.end) {
        const std::uint32_t page = (first - first_token_) / page_size_;
        const std::uint32_t end = std::min(range.end, first_token_ + (page + 1) * page_size_);
        if (!is_null(pages_[page])) {
            if (!ranges.empty() && ranges.back().end == first) {
                ranges.back().end = end;
            } else {
                ranges.push_back({first, end});
            }
        }
        first = end;
    }
    return ranges;
}

Result<std::vector<PageRun>> PageTable::runs(TokenRange range) const {
    std::vector<PageRun> runs;
    MC_RETURN_IF_ERROR(append_runs(range, runs));
    return runs;
}

Status PageTable::append_runs(TokenRange range, std::vector<PageRun>& out) const {
    if (range.empty()) return {};
    const TokenRange all = tokens();
    if (range.first < all.first || range.end > all.end) {
        return {
            Code::invalid_argument,
            "tokens " + std::to_string(range.first) + " to " + std::to_string(range.end - 1) +
                " were asked for, but pages exist for " +
                (all.empty() ? std::string("none")
                             : std::to_string(all.first) + " to " + std::to_string(all.end - 1))};
    }
    const std::uint32_t first = (range.first - first_token_) / page_size_;
    const std::uint32_t last = (range.end - 1 - first_token_) / page_size_;
    const auto pages = std::span(pages_).subspan(first, last - first + 1);
    if (null_page_) {
        const auto null = std::find(pages.begin(), pages.end(), *null_page_);
        if (null != pages.end()) {
            const auto page = static_cast<std::uint32_t>(null - pages.begin()) + first;
            return {Code::invalid_argument,
                    "token " +
                        std::to_string(std::max(range.first, first_token_ + page * page_size_)) +
                        " lies on the null page: nothing is stored for it"};
        }
    }
    find_runs(pages, out);
    return {};
}

std::vector<TokenRange> intersect(std::span<const TokenRange> left,
                                  std::span<const TokenRange> right) {
    std::vector<TokenRange> common;
    while (!left.empty() && !right.empty()) {
        const TokenRange both{std::max(left.front().first, right.front().first),
                              std::min(left.front().end, right.front().end)};
        if (!both.empty()) common.push_back(both);
        auto& earlier = left.front().end < right.front().end ? left : right;
        earlier = earlier.subspan(1);
    }
    return common;
}

std::uint64_t count_tokens(std::span<const TokenRange> ranges) {
    std::uint64_t tokens = 0;
    for (const TokenRange range : ranges) tokens += range.empty() ? 0 : range.count();
    return tokens;
}

}  // namespace mc
