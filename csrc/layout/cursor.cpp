// SPDX-License-Identifier: Apache-2.0
#include <algorithm>

#include "layout/slice.hpp"

namespace mc {

// Where segments are put. A piece that continues the last segment makes it longer, and needs no
// room. Small enough for registers: loops work on a copy, because a segment that is written could,
// as far as the compiler knows, be a member of the cursor.
class Cursor::Output {
  public:
    explicit Output(std::span<Segment> out) : out_(out) {}

    // False if there is no room; then nothing was put.
    bool put(std::uint64_t address, std::uint64_t length) {
        if (address == end_ && size_ > 0) {
            out_[size_ - 1].length += length;
        } else {
            if (size_ == out_.size()) return false;
            out_[size_++] = {address, length};
        }
        end_ = address + length;
        return true;
    }
    // Puts pieces that do not touch each other nor the last one, as many as there is room for.
    std::uint64_t put_row(std::uint64_t address, std::uint64_t stride, std::uint64_t length,
                          std::uint64_t count) {
        const std::uint64_t fitting = std::min<std::uint64_t>(count, out_.size() - size_);
        if (fitting == 0) return 0;
        Segment* const front = out_.data() + size_;
        for (std::uint64_t i = 0; i < fitting; ++i) front[i] = {address + i * stride, length};
        size_ += fitting;
        end_ = address + (fitting - 1) * stride + length;
        return fitting;
    }
    [[nodiscard]] std::size_t size() const { return size_; }

  private:
    std::span<Segment> out_;
    std::size_t size_ = 0;
    std::uint64_t end_ = 0;  // of the last segment
};

Cursor::Cursor(std::shared_ptr<const Slice> slice, std::uint64_t offset, std::uint64_t length)
    : slice_(std::move(slice)) {
    offset = std::min(offset, slice_->bytes());
    remaining_ = std::min(length, slice_->bytes() - offset);
    if (remaining_ > 0) seek(offset);
}

std::size_t Cursor::next(std::span<Segment> out) {
    Output output(out);
    if (slice_->walk() == nullptr) {
        emit_list(output);
        return output.size();
    }
    while (remaining_ > 0) {
        const Nest& nest = slice_->nest(slice_->walk()->roots()[root_].shape, section_);
        if (!(nest.loops.size < 2 ? emit_section(nest, output) : emit_run(nest, output))) break;
        if (remaining_ > 0) advance_run();
    }
    return output.size();
}

void Cursor::seek(std::uint64_t offset) {
    if (slice_->walk() == nullptr) {
        const auto [index, before] = slice_->find_segment(offset);
        run_ = index;
        skip_ = offset - before;
        return;
    }
    const Walk& walk = *slice_->walk();
    const std::uint64_t tokens = slice_->tokens();
    const auto roots = walk.roots();
    const auto behind = std::upper_bound(
        roots.begin(), roots.end(), offset / tokens,
        [](std::uint64_t bytes, const Walk::Root& root) { return bytes < root.bytes_before; });
    root_ = static_cast<std::uint32_t>(behind - roots.begin()) - 1;
    offset -= roots[root_].bytes_before * tokens;

    const Walk::Shape& shape = walk.shapes()[roots[root_].shape];
    const auto around = shape.around.all();
    std::uint64_t step_bytes = shape.token_bytes * tokens;
    for (std::size_t i = around.size(); i-- > 0;) {
        around_[i] = offset / step_bytes % around[i].count;
        step_bytes *= around[i].count;
    }
    offset %= shape.token_bytes * tokens;

    const auto sections = slice_->sections();
    const std::uint64_t token = offset / shape.token_bytes;
    section_ = static_cast<std::uint32_t>(sections.size()) - 1;
    while (sections[section_].tokens_before > token) --section_;
    enter_section();
    offset -= sections[section_].tokens_before * shape.token_bytes;

    const Nest& nest = slice_->nest(roots[root_].shape, section_);
    const auto runs = slice_->runs().subspan(0, sections[section_].end_run).subspan(run_);
    const auto later =
        std::upper_bound(runs.begin(), runs.end(), offset / nest.page_bytes,
                         [](std::uint64_t page, const PageRun& run) { return page < run.before; });
    run_ += static_cast<std::size_t>(later - runs.begin()) - 1;
    enter_run();
    offset -= slice_->runs()[run_].before * nest.page_bytes;

    const auto loops = nest.loops.all();
    for (std::size_t i = 0; i < loops.size(); ++i) {
        index_[i] = offset / nest.step_bytes[i];
        offset %= nest.step_bytes[i];
        if (i + 1 < loops.size()) address_[i + 1] = address_[i] + step(loops[i], index_[i]);
    }
    skip_ = offset;
}

std::uint64_t Cursor::step(const Loop& loop, std::uint64_t index) const {
    return loop.by_table ? slice_->walk()->layer_offsets()[index] : index * loop.stride;
}

void Cursor::enter_section() {
    const Walk& walk = *slice_->walk();
    const Walk::Root& root = walk.roots()[root_];
    const Walk::Shape& shape = walk.shapes()[root.shape];
    const Slice::Section& section = slice_->sections()[section_];
    page_stride_ = shape.page_stride;
    origin_ = root.base + section.token_in_page * shape.token_stride;
    for (std::size_t i = 0; i < shape.around.size; ++i)
        origin_ += step(shape.around.loops[i], around_[i]);
    run_ = section.first_run;
}

void Cursor::enter_run() {
    address_.fill(origin_ + slice_->runs()[run_].first_page * page_stride_);
    index_.fill(0);
}

// Goes to the next run, which may be in the next section, in the next step of a loop around, or
// under the next root. There must be one.
void Cursor::advance_run() {
    const auto sections = slice_->sections();
    if (++run_ >= sections[section_].end_run) {
        if (++section_ == sections.size()) {
            section_ = 0;
            const Walk& walk = *slice_->walk();
            const auto around = walk.shapes()[walk.roots()[root_].shape].around.all();
            std::size_t i = around.size();
            while (i > 0 && ++around_[i - 1] == around[i - 1].count) around_[--i] = 0;
            if (i == 0) ++root_;
        }
        enter_section();
    }
    enter_run();
}

bool Cursor::emit_list(Output& out) {
    const auto segments = slice_->segments();
    while (remaining_ > 0) {
        const Segment& segment = segments[run_];
        const std::uint64_t length = std::min(segment.length - skip_, remaining_);
        if (!out.put(segment.address + skip_, length)) return false;
        remaining_ -= length;
        skip_ = 0;
        ++run_;
    }
    return true;
}

// Puts pieces of the innermost loop, from `index` to `end`. False if there is no room for all; then
// `index` is the first that was not put.
bool Cursor::emit_row(const Loop& loop, std::uint64_t piece_bytes, std::uint64_t address,
                      std::uint64_t end, std::uint64_t& index, Output& out) {
    while (index < end && remaining_ > 0) {
        const std::uint64_t length = std::min(piece_bytes - skip_, remaining_);
        if (!out.put(address + step(loop, index) + skip_, length)) return false;
        remaining_ -= length;
        skip_ = 0;
        ++index;
        if (loop.by_table) continue;
        // Further pieces do not touch each other. Only the last row is cut short, so only there
        // does it take a division to see how far.
        std::uint64_t whole = end - index;
        if (whole * piece_bytes > remaining_) whole = remaining_ / piece_bytes;
        const std::uint64_t put =
            out.put_row(address + index * loop.stride, loop.stride, piece_bytes, whole);
        index += put;
        remaining_ -= put * piece_bytes;
        if (put < whole) return false;
    }
    return true;
}

// The rest of this section when there is one loop at most: a run is one piece, or one row of them.
// Pages that lie scattered make runs short, so here the step from run to run counts.
bool Cursor::emit_section(const Nest& nest, Output& out) {
    return nest.loops.size == 0 ? emit_runs<true>(nest, out) : emit_runs<false>(nest, out);
}

template <bool WholeRuns>
bool Cursor::emit_runs(const Nest& nest, Output& out) {
    const PageRun* const runs = slice_->runs().data();
    const std::size_t last = slice_->sections()[section_].end_run - 1;
    const Loop loop = WholeRuns ? Loop{} : nest.loops.loops[0];
    const std::uint64_t nest_bytes = nest.piece_bytes, origin = origin_, page_stride = page_stride_;
    Output local = out;
    std::uint64_t remaining = remaining_, skip = skip_, index = index_[0];
    std::size_t run = run_;
    bool room = true;
    while (true) {
        const std::uint64_t pages = runs[run].pages;
        const std::uint64_t piece_bytes = nest_bytes * (WholeRuns ? pages : 1);
        const std::uint64_t steps = WholeRuns ? 1 : loop.count * pages;
        std::uint64_t address =
            origin + runs[run].first_page * page_stride + index * loop.stride + skip;
        do {
            const std::uint64_t length = std::min(piece_bytes - skip, remaining);
            room = local.put(address, length);
            if (!room) break;
            remaining -= length;
            address += loop.stride - skip;
            skip = 0;
        } while (++index < steps && remaining > 0);
        if (!room || remaining == 0 || run == last) break;
        ++run;
        index = 0;
    }
    out = local;
    remaining_ = remaining;
    skip_ = skip;
    index_[0] = index;
    run_ = run;
    return room;
}

// The rest of this run, row by row: a row is the innermost loop with all others standing still.
bool Cursor::emit_run(const Nest& nest, Output& out) {
    const std::size_t last = nest.loops.size - 1;
    const Loop loop = nest.loops.loops[last];
    do {
        if (!emit_row(loop, nest.piece_bytes, address_[last], loop.count, index_[last], out))
            return false;
    } while (remaining_ > 0 && advance_row(nest));
    return true;
}

// Moves the loops around the innermost one a step forward. False if they have all ended.
bool Cursor::advance_row(const Nest& nest) {
    const std::size_t last = nest.loops.size - 1;
    index_[last] = 0;
    for (std::size_t i = last; i-- > 0;) {
        const Loop& loop = nest.loops.loops[i];
        if (++index_[i] < loop.count * (i == 0 ? slice_->runs()[run_].pages : 1)) {
            const std::uint64_t address = address_[i] + step(loop, index_[i]);
            for (std::size_t k = i + 1; k <= last; ++k) address_[k] = address;
            return true;
        }
        index_[i] = 0;
    }
    return false;
}

}  // namespace mc
