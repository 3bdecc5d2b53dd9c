// SPDX-License-Identifier: Apache-2.0
#include "layout/reference.hpp"

#include <algorithm>
#include <numeric>

namespace mc::reference {
namespace {

// Strides of an array with these extents whose axes are nested in the given order, outermost first.
std::vector<std::uint64_t> strides_of(Random& random, const std::vector<std::uint64_t>& extents,
                                      const std::vector<std::size_t>& nesting, std::uint64_t unit) {
    std::vector<std::uint64_t> strides(extents.size());
    for (std::size_t i = nesting.size(); i-- > 0;) {
        if (pick(random, 0, 11) == 0) unit += 8;  // a gap
        strides[nesting[i]] = unit;
        unit *= extents[nesting[i]];
    }
    return strides;
}

}  // namespace

OwnedPool make_pool(Random& random, const PoolShape& shape) {
    OwnedPool owned;
    Pool& pool = owned.pool;
    pool.name = "kv.0";
    pool.fingerprint = "model";
    pool.page_size = shape.page_size;
    pool.page_count = shape.page_count;
    pool.null_page = shape.null_page;
    const std::size_t planes = shape.layers.size() * shape.kinds.size();
    const bool kv =
        std::find(shape.kinds.begin(), shape.kinds.end(), PlaneKind::kv) != shape.kinds.end();
    const std::uint64_t elements = shape.elements * (kv ? 2 : 1);
    const bool one_storage = pick(random, 0, 1) == 0;
    enum : std::size_t { plane_axis, page_axis, token_axis, head_axis };
    std::vector<std::uint64_t> extents{planes, shape.page_count, shape.page_size, shape.heads};
    std::vector<std::size_t> nesting{plane_axis, page_axis, token_axis, head_axis};
    if (!one_storage) {
        extents[plane_axis] = 1;
    }
    std::shuffle(nesting.begin(), nesting.end(), random);
    const std::uint64_t element_stride = shape.element_bytes * (pick(random, 0, 9) == 0 ? 2 : 1);
    const auto strides = strides_of(random, extents, nesting, element_stride * elements);
    const auto bytes = strides[nesting[0]] * extents[nesting[0]];
    owned.memory.resize(one_storage ? 1 : planes);
    for (auto& memory : owned.memory) memory.assign(bytes, 0);
    std::size_t index = 0;
    for (const std::uint32_t layer : shape.layers) {
        for (const PlaneKind kind : shape.kinds) {
            auto* const start = owned.memory[one_storage ? 0 : index].data();
            pool.planes.push_back({.layer = layer,
                                   .kind = kind,
                                   .dtype = "bfloat16",
                                   .element_bytes = shape.element_bytes,
                                   .base = reinterpret_cast<std::uint64_t>(start) +
                                           (one_storage ? index * strides[plane_axis] : 0),
                                   .page_stride = strides[page_axis],
                                   .token_stride = strides[token_axis],
                                   .head_stride = strides[head_axis],
                                   .element_stride = element_stride,
                                   .heads = shape.heads,
                                   .elements = static_cast<std::uint32_t>(elements),
                                   .first_head = shape.first_head});
            ++index;
        }
    }
    return owned;
}

namespace {

class Enumerator {
  public:
    Enumerator(const Pool& pool, const Match& match, Side side, std::span<const std::int32_t> pages,
               std::uint32_t first_page, TokenRange tokens)
        : pool_(pool),
          match_(match),
          side_(side),
          pages_(pages),
          first_page_(first_page),
          tokens_(tokens) {}

    std::vector<std::uint64_t> run() {
        visit(0);
        return std::move(found_);
    }

  private:
    void visit(std::size_t depth) {
        if (depth == match_.order.axes.size()) {
            visit_elements();
            return;
        }
        switch (match_.order.axes[depth]) {
            case Axis::layer:
                for (pair_ = 0; pair_ < match_.pairs.size(); ++pair_) visit(depth + 1);
                pair_ = 0;
                break;
            case Axis::head:
                // Where heads are outside layers, all pairs have as many heads as the first one.
                for (head_ = 0; head_ < match_.pairs[pair_].heads; ++head_) visit(depth + 1);
                break;
            case Axis::block:
                for (block_ = 0; block_ * match_.order.block_tokens < tokens_.end; ++block_)
                    visit(depth + 1);
                break;
            case Axis::token:
                for (std::uint32_t i = 0; i < match_.order.block_tokens; ++i) {
                    token_ = block_ * match_.order.block_tokens + i;
                    if (token_ >= tokens_.first && token_ < tokens_.end) visit(depth + 1);
                }
                break;
        }
    }

    void visit_elements() {
        const PlanePair& pair = match_.pairs[pair_];
        const bool source = side_ == Side::source;
        const Plane& plane = pool_.planes[source ? pair.source_plane : pair.destination_plane];
        const std::uint64_t head = head_ + (source ? pair.source_head : pair.destination_head);
        const std::uint64_t element = source ? pair.source_element : pair.destination_element;
        const auto page =
            static_cast<std::uint64_t>(pages_[token_ / pool_.page_size - first_page_]);
        for (std::uint32_t i = 0; i < pair.elements; ++i) {
            for (std::uint32_t byte = 0; byte < plane.element_bytes; ++byte) {
                found_.push_back(plane.base + page * plane.page_stride +
                                 (token_ % pool_.page_size) * plane.token_stride +
                                 head * plane.head_stride + (element + i) * plane.element_stride +
                                 byte);
            }
        }
    }

    const Pool& pool_;
    const Match& match_;
    Side side_;
    std::span<const std::int32_t> pages_;
    std::uint32_t first_page_;
    TokenRange tokens_;
    std::uint32_t pair_ = 0, head_ = 0, block_ = 0, token_ = 0;
    std::vector<std::uint64_t> found_;
};

}  // namespace

std::vector<std::uint64_t> addresses(const Pool& pool, const Match& match, Side side,
                                     std::span<const std::int32_t> pages, std::uint32_t first_page,
                                     TokenRange tokens) {
    return Enumerator(pool, match, side, pages, first_page, tokens).run();
}

std::vector<Segment> merge(std::span<const std::uint64_t> addresses) {
    std::vector<Segment> segments;
    for (const std::uint64_t address : addresses) {
        if (!segments.empty() && segments.back().address + segments.back().length == address) {
            ++segments.back().length;
        } else {
            segments.push_back({address, 1});
        }
    }
    return segments;
}

std::vector<std::int32_t> random_pages(Random& random, std::uint32_t count,
                                       std::uint32_t page_count) {
    std::vector<std::int32_t> all(page_count);
    std::iota(all.begin(), all.end(), 0);
    // Shuffles stretches, not single pages: each cut starts a stretch of its own.
    std::vector<std::vector<std::int32_t>> stretches;
    const std::uint32_t cut_in = pick(random, 1, 5);
    for (const std::int32_t page : all) {
        if (stretches.empty() || pick(random, 1, cut_in) == 1) stretches.emplace_back();
        stretches.back().push_back(page);
    }
    std::shuffle(stretches.begin(), stretches.end(), random);
    std::vector<std::int32_t> pages;
    for (const auto& stretch : stretches) pages.insert(pages.end(), stretch.begin(), stretch.end());
    pages.resize(count);
    return pages;
}

std::vector<Segment> drain(Random& random, Cursor cursor, std::uint32_t most) {
    std::vector<Segment> segments;
    while (true) {
        std::vector<Segment> portion(pick(random, 1, most));
        const std::size_t count = cursor.next(portion);
        segments.insert(segments.end(), portion.begin(),
                        portion.begin() + static_cast<std::ptrdiff_t>(count));
        if (count < portion.size()) return segments;
    }
}

}  // namespace mc::reference
