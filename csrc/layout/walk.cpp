// SPDX-License-Identifier: Apache-2.0
#include "layout/walk.hpp"

#include <algorithm>
#include <limits>
#include <map>
#include <tuple>

namespace mc {
namespace {

// What a pair takes from this side's plane.
struct View {
    std::uint64_t base;
    std::uint64_t page_stride;
    std::uint64_t token_stride;
    Loop heads;
    Loop elements;
    std::uint64_t element_bytes;

    [[nodiscard]] std::uint64_t token_bytes() const {
        return heads.count * elements.count * element_bytes;
    }
    [[nodiscard]] auto shape_key() const {
        return std::tuple(page_stride, token_stride, heads.count, heads.stride, elements.count,
                          elements.stride, element_bytes);
    }
};

// The strides of axes with one index mean nothing: zero makes them equal.
View view_of(const Pool& pool, const PlanePair& pair, Side side) {
    const bool source = side == Side::source;
    const Plane& plane = pool.planes[source ? pair.source_plane : pair.destination_plane];
    const std::uint64_t head = source ? pair.source_head : pair.destination_head;
    const std::uint64_t element = source ? pair.source_element : pair.destination_element;
    return {.base = plane.base + head * plane.head_stride + element * plane.element_stride,
            .page_stride = pool.page_count > 1 ? plane.page_stride : 0,
            .token_stride = pool.page_size > 1 ? plane.token_stride : 0,
            .heads = {.count = pair.heads, .stride = pair.heads > 1 ? plane.head_stride : 0},
            .elements = {.count = pair.elements,
                         .stride = pair.elements > 1 ? plane.element_stride : 0},
            .element_bytes = plane.element_bytes};
}

// The loop over all pairs, for orders in which layers are not outermost.
Loop layer_loop(std::span<const View> views) {
    if (views.size() == 1) return {};
    const std::uint64_t stride = views[1].base - views[0].base;
    for (std::size_t i = 2; i < views.size(); ++i) {
        if (views[i].base - views[i - 1].base != stride)
            return {.count = views.size(), .by_table = true};
    }
    return {.count = views.size(), .stride = stride};
}

Walk::Shape shape_of(const View& view, std::span<const Axis> axes, const Loop& layers) {
    Walk::Shape shape{.page_stride = view.page_stride,
                      .token_stride = view.token_stride,
                      .element_bytes = view.element_bytes,
                      .token_bytes = view.token_bytes() * layers.count};
    bool block = false;
    bool token = false;
    for (const Axis axis : axes) {
        if (axis == Axis::block) {
            block = true;
        } else if (axis == Axis::token) {
            token = true;
        } else {
            const Loop& loop = axis == Axis::head ? view.heads : layers;
            if (token) {
                shape.inside.push_back(loop);
            } else if (block) {
                shape.between.push_back(loop);
            } else {
                shape.around.push_back(loop);
                shape.token_bytes /= loop.count;
            }
        }
    }
    shape.inside.push_back(view.elements);
    return shape;
}

// Builds a nest from the inside, merging each loop with what it repeats where memory allows.
class NestBuilder {
  public:
    explicit NestBuilder(std::uint64_t element_bytes) : piece_bytes_(element_bytes) {}

    void wrap(const Loop& loop) {
        if (loop.count == 1 || join(loop.stride, loop)) return;
        loops_[size_++] = loop;
    }
    void wrap(std::span<const Loop> outermost_first) {
        for (std::size_t i = outermost_first.size(); i-- > 0;) wrap(outermost_first[i]);
    }

    // The loop over pages goes around everything even if only one page is walked, because its count
    // changes from run to run.
    [[nodiscard]] Nest finish(std::uint64_t page_stride) {
        Nest nest;
        nest.page_bytes = bytes();
        const bool joined = size_ == 0 ? page_stride == piece_bytes_ : joins(page_stride);
        if (!joined) loops_[size_++] = {.count = 1, .stride = page_stride};
        nest.piece_bytes = piece_bytes_;
        std::uint64_t step = nest.page_bytes;
        for (std::size_t i = size_; i-- > 0;) {
            step /= loops_[i].count;
            nest.step_bytes[nest.loops.size] = step;
            nest.loops.push_back(loops_[i]);
        }
        return nest;
    }

  private:
    [[nodiscard]] bool joins(std::uint64_t stride) const {
        const Loop& outermost = loops_[size_ - 1];
        return !outermost.by_table && stride == outermost.stride * outermost.count;
    }
    bool join(std::uint64_t stride, const Loop& loop) {
        if (loop.by_table) return false;
        if (size_ == 0) {
            if (stride != piece_bytes_) return false;
            piece_bytes_ *= loop.count;
            return true;
        }
        if (!joins(stride)) return false;
        loops_[size_ - 1].count *= loop.count;
        return true;
    }
    [[nodiscard]] std::uint64_t bytes() const {
        std::uint64_t total = piece_bytes_;
        for (std::size_t i = 0; i < size_; ++i) total *= loops_[i].count;
        return total;
    }

    std::uint64_t piece_bytes_;
    std::array<Loop, Nest::kMaxLoops> loops_;  // innermost first
    std::size_t size_ = 0;
};

}  // namespace

std::uint64_t Nest::pieces(std::uint64_t pages) const {
    return loops.size == 0 ? 1 : pages * (page_bytes / piece_bytes);
}

Result<std::shared_ptr<const Walk>> Walk::make(const Pool& pool, const Match& match, Side side) {
    MC_RETURN_IF_ERROR(mc::validate(pool));
    MC_RETURN_IF_ERROR(mc::validate(match, pool, side));
    if (match.pairs.empty()) {
        return Status(Code::invalid_argument,
                      "pool \"" + pool.name + "\": no plane takes part in this match");
    }
    std::vector<View> views;
    views.reserve(match.pairs.size());
    for (const PlanePair& pair : match.pairs) views.push_back(view_of(pool, pair, side));

    auto walk = std::shared_ptr<Walk>(new Walk);
    walk->token_bytes_ = match.token_bytes;
    walk->page_size_ = pool.page_size;
    walk->page_count_ = pool.page_count;
    const auto& axes = match.order.axes;
    // Without an axis between them, blocks one behind the other are just tokens.
    const auto block = std::find(axes.begin(), axes.end(), Axis::block);
    walk->block_tokens_ = *(block + 1) == Axis::token ? 1 : match.order.block_tokens;

    if (axes[0] != Axis::layer) {
        const Loop layers = layer_loop(views);
        walk->shapes_.push_back(shape_of(views[0], axes, layers));
        walk->roots_.push_back({.base = views[0].base});
        if (layers.by_table) {
            for (const View& view : views)
                walk->layer_offsets_.push_back(view.base - views[0].base);
        }
        return std::shared_ptr<const Walk>(std::move(walk));
    }
    std::map<decltype(views[0].shape_key()), std::uint32_t> shapes;
    std::uint64_t bytes_before = 0;
    for (const View& view : views) {
        const auto [known, added] =
            shapes.try_emplace(view.shape_key(), static_cast<std::uint32_t>(walk->shapes_.size()));
        if (added) walk->shapes_.push_back(shape_of(view, std::span(axes).subspan(1), Loop{}));
        walk->roots_.push_back(
            {.base = view.base, .bytes_before = bytes_before, .shape = known->second});
        bytes_before += view.token_bytes();
    }
    return std::shared_ptr<const Walk>(std::move(walk));
}

Nest Walk::nest(const Shape& shape, std::uint64_t blocks, std::uint64_t tokens) const {
    NestBuilder builder(shape.element_bytes);
    builder.wrap(shape.inside.all());
    builder.wrap({.count = tokens, .stride = shape.token_stride});
    builder.wrap(shape.between.all());
    builder.wrap({.count = blocks, .stride = shape.token_stride * block_tokens_});
    return builder.finish(shape.page_stride);
}

std::uint64_t Walk::segment_bytes(std::uint32_t pages) const {
    pages = std::min(pages, page_count_);
    std::vector<std::uint64_t> of_shape;
    for (const Shape& shape : shapes_) {
        std::uint64_t count = nest(shape, page_size_ / block_tokens_, block_tokens_).pieces(pages);
        for (const Loop& loop : shape.around.all()) count *= loop.count;
        of_shape.push_back(count);
    }
    std::uint64_t segments = 0;
    for (const Root& root : roots_) segments += of_shape[root.shape];
    return token_bytes_ * page_size_ * pages / segments;  // validate(match) bounds both
}

}  // namespace mc
