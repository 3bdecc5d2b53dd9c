// SPDX-License-Identifier: Apache-2.0
#include "layout/slice.hpp"

#include <algorithm>
#include <limits>
#include <string>

namespace mc {
namespace {

std::uint32_t round_up(std::uint32_t value, std::uint32_t unit, std::uint32_t most) {
    return static_cast<std::uint32_t>(
        std::min<std::uint64_t>(most, (std::uint64_t{value} + unit - 1) / unit * unit));
}

}  // namespace

Status validate(std::span<const Segment> segments) {
    std::uint64_t bytes = 0;
    for (const Segment& segment : segments) {
        if (segment.length > std::numeric_limits<std::uint64_t>::max() - segment.address) {
            return {Code::invalid_argument, "a segment of " + std::to_string(segment.length) +
                                                " bytes wraps around the end of the address space"};
        }
        if (__builtin_add_overflow(bytes, segment.length, &bytes)) {
            return {Code::invalid_argument,
                    "the lengths of the segments add up to more than 64 bits can count"};
        }
    }
    return {};
}

Result<std::shared_ptr<const Slice>> Slice::make(std::shared_ptr<const Walk> walk,
                                                 const PageTable& pages, TokenRange tokens) {
    if (pages.page_size() != walk->page_size() || pages.page_count() != walk->page_count()) {
        return Status(Code::invalid_argument,
                      "a page table for " + std::to_string(pages.page_count()) + " pages of " +
                          std::to_string(pages.page_size()) +
                          " tokens does not belong to a pool with " +
                          std::to_string(walk->page_count()) + " pages of " +
                          std::to_string(walk->page_size()) + " tokens");
    }
    auto slice = std::shared_ptr<Slice>(new Slice);
    slice->walk_ = std::move(walk);
    if (tokens.empty()) return std::shared_ptr<const Slice>(std::move(slice));
    slice->tokens_ = tokens.count();
    if (__builtin_mul_overflow(slice->walk_->token_bytes(), std::uint64_t{slice->tokens_},
                               &slice->bytes_)) {
        return Status(Code::invalid_argument, std::to_string(slice->tokens_) + " tokens of " +
                                                  std::to_string(slice->walk_->token_bytes()) +
                                                  " bytes: the total does not fit 64 bits");
    }
    // Blocks never cross pages, so that the cuts below come in this order.
    const std::uint32_t page = slice->walk_->page_size();
    const std::uint32_t block = slice->walk_->block_tokens();
    const std::uint32_t last_block = tokens.end - tokens.end % block;
    const std::uint32_t last_page = tokens.end - tokens.end % page;
    std::uint32_t at = tokens.first;
    const auto add_until = [&](std::uint32_t end, std::uint32_t blocks,
                               std::uint32_t block_tokens) -> Status {
        if (end <= at) return {};
        const TokenRange part{at, end};
        at = end;
        return slice->add_section(pages, part, tokens.first, blocks, block_tokens);
    };
    if (at % block != 0) {
        const std::uint32_t end = round_up(at, block, tokens.end);
        MC_RETURN_IF_ERROR(add_until(end, 1, end - at));
    }
    if (at % page != 0) {
        const std::uint32_t end = round_up(at, page, last_block);
        MC_RETURN_IF_ERROR(add_until(end, end > at ? (end - at) / block : 0, block));
    }
    if (at % page == 0) MC_RETURN_IF_ERROR(add_until(last_page, page / block, block));
    MC_RETURN_IF_ERROR(
        add_until(last_block, last_block > at ? (last_block - at) / block : 0, block));
    MC_RETURN_IF_ERROR(add_until(tokens.end, 1, tokens.end - at));
    slice->add_nests();
    return std::shared_ptr<const Slice>(std::move(slice));
}

Status Slice::add_section(const PageTable& pages, TokenRange tokens, std::uint32_t first,
                          std::uint32_t blocks, std::uint32_t block_tokens) {
    const auto first_run = static_cast<std::uint32_t>(runs_.size());
    MC_RETURN_IF_ERROR(pages.append_runs(tokens, runs_));
    sections_[section_count_++] = {.first_run = first_run,
                                   .end_run = static_cast<std::uint32_t>(runs_.size()),
                                   .token_in_page = tokens.first % walk_->page_size(),
                                   .tokens_before = tokens.first - first,
                                   .blocks = blocks,
                                   .block_tokens = block_tokens};
    return {};
}

void Slice::add_nests() {
    const auto shapes = walk_->shapes();
    nests_.reserve(shapes.size() * section_count_);
    std::vector<std::uint64_t> pieces(shapes.size());
    for (std::size_t i = 0; i < shapes.size(); ++i) {
        for (const Section& section : sections()) {
            const Nest& nest =
                nests_.emplace_back(walk_->nest(shapes[i], section.blocks, section.block_tokens));
            const PageRun& last = runs_[section.end_run - 1];
            pieces[i] += nest.loops.size == 0 ? section.end_run - section.first_run
                                              : nest.pieces(last.before + last.pages);
        }
        for (const Loop& loop : shapes[i].around.all()) pieces[i] *= loop.count;
    }
    for (const Walk::Root& root : walk_->roots()) estimated_segments_ += pieces[root.shape];
}

std::shared_ptr<const Slice> Slice::from_segments(std::vector<Segment> segments) {
    auto slice = std::shared_ptr<Slice>(new Slice);
    std::erase_if(segments, [](const Segment& segment) { return segment.length == 0; });
    slice->segments_ = std::move(segments);
    slice->segment_ends_.reserve(slice->segments_.size());
    for (const Segment& segment : slice->segments_) {
        slice->bytes_ += segment.length;
        slice->segment_ends_.push_back(slice->bytes_);
    }
    slice->estimated_segments_ = slice->segments_.size();
    return slice;
}

std::pair<std::size_t, std::uint64_t> Slice::find_segment(std::uint64_t offset) const {
    const auto end = std::upper_bound(segment_ends_.begin(), segment_ends_.end(), offset);
    const auto index = static_cast<std::size_t>(end - segment_ends_.begin());
    return {index, index == 0 ? 0 : segment_ends_[index - 1]};
}

}  // namespace mc
