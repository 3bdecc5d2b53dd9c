// SPDX-License-Identifier: Apache-2.0
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>

#include "layout/reference.hpp"

namespace mc {
namespace {

using namespace reference;
using testing::HasSubstr;

constexpr std::uint8_t kUntouched = 0xee;

// The one byte of the model at this place, whichever pool stores it. `half` is 0 for K, 1 for V.
std::uint8_t model_byte(std::uint64_t layer, std::uint64_t half, std::uint64_t head,
                        std::uint64_t token, std::uint64_t element, std::uint64_t byte) {
    std::uint64_t mixed = 0;
    for (const std::uint64_t part : {layer, half, head, token, element, byte}) {
        mixed = (mixed + part + 1) * 0x9e3779b97f4a7c15;
        mixed ^= mixed >> 31;
    }
    return static_cast<std::uint8_t>(mixed % 0xee);  // never kUntouched
}

// Calls visit(byte in memory, what the model has there) for each byte of the tokens in the pool.
template <typename Visit>
void for_each_byte(const Pool& pool, std::span<const std::int32_t> pages, std::uint32_t first_page,
                   TokenRange tokens, Visit visit) {
    for (const Plane& plane : pool.planes) {
        for (std::uint32_t token = tokens.first; token < tokens.end; ++token) {
            const std::int32_t page = pages[token / pool.page_size - first_page];
            if (pool.null_page && page == *pool.null_page) continue;
            for (std::uint32_t head = 0; head < plane.heads; ++head) {
                for (std::uint32_t element = 0; element < plane.elements; ++element) {
                    for (std::uint32_t byte = 0; byte < plane.element_bytes; ++byte) {
                        const bool second_half =
                            plane.kind == PlaneKind::kv && element >= plane.elements / 2;
                        const bool v = plane.kind == PlaneKind::v || second_half;
                        auto* const place = reinterpret_cast<std::uint8_t*>(
                            plane.base + static_cast<std::uint64_t>(page) * plane.page_stride +
                            token % pool.page_size * plane.token_stride + head * plane.head_stride +
                            element * plane.element_stride + byte);
                        visit(
                            place,
                            model_byte(plane.layer, v ? 1 : 0, plane.first_head + head, token,
                                       second_half ? element - plane.elements / 2 : element, byte));
                    }
                }
            }
        }
    }
}

// One end of a transfer: a pool, the request's pages in it, and how they begin.
struct End {
    OwnedPool owned;
    std::vector<std::int32_t> pages;
    std::uint32_t first_page = 0;

    [[nodiscard]] const Pool& pool() const { return owned.pool; }
    [[nodiscard]] PageTable table() const {
        PageTable table(pool().page_size, pool().page_count, pool().null_page,
                        first_page * pool().page_size);
        EXPECT_TRUE(table.append(pages).ok());
        return table;
    }
};

End make_end(Random& random, PoolShape shape, TokenRange tokens) {
    End end;
    end.first_page = tokens.first / shape.page_size;
    const std::uint32_t needed = (tokens.end - 1) / shape.page_size - end.first_page + 1;
    shape.page_count = needed + pick(random, 1, 6);
    if (pick(random, 0, 2) == 0) shape.null_page = 0;
    end.owned = make_pool(random, shape);
    end.pages = random_pages(random, needed, shape.page_count);
    return end;
}

std::vector<PlaneKind> random_kinds(Random& random) {
    return pick(random, 0, 1) == 0 ? std::vector{PlaneKind::kv}
                                   : std::vector{PlaneKind::k, PlaneKind::v};
}

// Copies what `match` says and returns the number of spans' bytes.
std::uint64_t copy(Random& random, const End& source, const End& destination, const Match& match,
                   TokenRange tokens) {
    const auto from = Walk::make(source.pool(), match, Side::source);
    const auto to = Walk::make(destination.pool(), match, Side::destination);
    EXPECT_TRUE(from.ok()) << from.status().to_string();
    EXPECT_TRUE(to.ok()) << to.status().to_string();
    const PageTable source_table = source.table();
    const PageTable destination_table = destination.table();
    const auto present = intersect(source_table.present(tokens), destination_table.present(tokens));
    std::uint64_t bytes = 0;
    for (const TokenRange range : present) {
        const auto read = Slice::make(*from, source_table, range);
        const auto written = Slice::make(*to, destination_table, range);
        EXPECT_TRUE(read.ok()) << read.status().to_string();
        EXPECT_TRUE(written.ok()) << written.status().to_string();
        EXPECT_EQ((*read)->bytes(), (*written)->bytes());
        CopyPlan plan(Cursor(*read, 0, (*read)->bytes()), Cursor(*written, 0, (*written)->bytes()));
        Span last;
        while (true) {
            std::vector<Span> spans(pick(random, 1, 7));
            const std::size_t count = plan.next(spans);
            for (const Span& span : std::span(spans).first(count)) {
                EXPECT_FALSE(last.source + last.length == span.source &&
                             last.destination + last.length == span.destination)
                    << "two spans that touch on both sides were not merged";
                std::memcpy(reinterpret_cast<void*>(span.destination),
                            reinterpret_cast<const void*>(span.source), span.length);
                bytes += span.length;
                last = span;
            }
            if (count < spans.size()) break;
        }
    }
    return bytes;
}

struct Transfer {
    std::vector<End> sources;
    End destination;
    TokenRange tokens;
    std::uint32_t receiver_index = 0;
};

// Runs a transfer and compares every byte of the destination: what was asked for must be there, all
// else untouched.
void run_and_check(Random& random, Transfer& transfer) {
    for (const End& source : transfer.sources) {
        for_each_byte(source.pool(), source.pages, source.first_page, transfer.tokens,
                      [](std::uint8_t* place, std::uint8_t value) { *place = value; });
    }
    End& destination = transfer.destination;
    for (auto& memory : destination.owned.memory)
        std::fill(memory.begin(), memory.end(), kUntouched);

    std::vector<const Pool*> pools(transfer.sources.size());
    std::transform(transfer.sources.begin(), transfer.sources.end(), pools.begin(),
                   [](const End& source) { return &source.pool(); });
    const auto matches = match_pools(pools, destination.pool(), transfer.receiver_index);
    ASSERT_TRUE(matches.ok()) << matches.status().to_string();
    ASSERT_EQ(matches->size(), pools.size());
    std::uint64_t bytes = 0;
    for (std::size_t i = 0; i < pools.size(); ++i) {
        ASSERT_TRUE(check_compatible(*pools[i], destination.pool()).ok());
        if ((*matches)[i].pairs.empty()) continue;
        bytes += copy(random, transfer.sources[i], destination, (*matches)[i], transfer.tokens);
    }
    std::uint64_t expected = 0;
    for (const auto& range : intersect(transfer.sources[0].table().present(transfer.tokens),
                                       destination.table().present(transfer.tokens))) {
        for_each_byte(destination.pool(), destination.pages, destination.first_page, range,
                      [&](std::uint8_t* place, std::uint8_t value) {
                          ASSERT_EQ(*place, value);
                          *place = kUntouched;
                          ++expected;
                      });
    }
    EXPECT_EQ(bytes, expected);
    for (const auto& memory : destination.owned.memory) {
        ASSERT_TRUE(std::all_of(memory.begin(), memory.end(),
                                [](std::uint8_t byte) { return byte == kUntouched; }));
    }
}

// Senders that together hold all layers and heads, some of them perhaps more than once; a receiver
// that wants some of both.
Transfer make_transfer(Random& random) {
    Transfer transfer;
    PoolShape shape;
    shape.elements = pick(random, 1, 3);
    shape.element_bytes = pick(random, 1, 2);
    const std::uint32_t layers = pick(random, 1, 5);
    const std::uint32_t head_shares = pick(random, 1, 3);
    const std::uint32_t heads_of_share = pick(random, 1, 2);
    const std::uint32_t replicas = pick(random, 1, 3);
    const bool mla = pick(random, 0, 4) == 0;
    const auto kinds = [&] { return mla ? std::vector{PlaneKind::mla} : random_kinds(random); };
    const std::uint32_t first = pick(random, 0, 20);
    transfer.tokens = {first, first + pick(random, 1, 25)};
    transfer.receiver_index = pick(random, 0, 5);
    const std::uint32_t cut =
        pick(random, 0, layers - 1);  // pipeline stages [0, cut) and [cut, layers)
    shape.kinds = kinds();
    for (const bool second_stage : {false, true}) {
        shape.layers.clear();
        for (std::uint32_t layer = second_stage ? cut : 0; layer < (second_stage ? layers : cut);
             ++layer) {
            shape.layers.push_back(layer);
        }
        if (shape.layers.empty()) continue;
        for (std::uint32_t share = 0; share < head_shares; ++share) {
            for (std::uint32_t replica = 0; replica < replicas; ++replica) {
                shape.first_head = share * heads_of_share;
                shape.heads = heads_of_share;
                shape.page_size = 1U << pick(random, 0, 3);
                transfer.sources.push_back(make_end(random, shape, transfer.tokens));
            }
        }
    }
    shape.kinds = kinds();
    shape.layers.clear();
    for (std::uint32_t layer = 0; layer < layers; ++layer) {
        if (pick(random, 0, 3) != 0 || layer == 0) shape.layers.push_back(layer);
    }
    shape.first_head = pick(random, 0, head_shares * heads_of_share - 1);
    shape.heads = pick(random, 1, head_shares * heads_of_share - shape.first_head);
    shape.page_size = pick(random, 0, 4) == 0 ? 3 * pick(random, 1, 4) : 1U << pick(random, 0, 3);
    transfer.destination = make_end(random, shape, transfer.tokens);
    // All senders serve the same request, so they agree on which tokens they have.
    for (End& source : transfer.sources) {
        if (source.owned.pool.null_page) source.owned.pool.null_page = -1;
    }
    return transfer;
}

TEST(Match, MovesEveryByteOfTheModelToItsPlaceAndNoOther) {
    for (std::uint64_t seed = 0; seed < 1500; ++seed) {
        SCOPED_TRACE("seed " + std::to_string(seed));
        Random random(seed);
        Transfer transfer = make_transfer(random);
        run_and_check(random, transfer);
        if (HasFatalFailure() || HasFailure()) return;
    }
}

TEST(Match, SkipsNullPagesOfBothSides) {
    for (std::uint64_t seed = 0; seed < 100; ++seed) {
        SCOPED_TRACE("seed " + std::to_string(seed));
        Random random(seed);
        Transfer transfer = make_transfer(random);
        transfer.sources.resize(1);
        transfer.destination.owned = {};
        PoolShape shape;
        shape.page_size = 2;
        shape.page_count = 30;
        shape.null_page = 0;
        transfer.tokens = {3, 21};
        transfer.sources[0].owned = make_pool(random, shape);
        transfer.destination.owned = make_pool(random, shape);
        for (End* end : {&transfer.sources[0], &transfer.destination}) {
            end->first_page = 1;
            end->pages = random_pages(random, 10, 30);
            for (std::uint32_t i = 0; i < 4; ++i) end->pages[pick(random, 0, 9)] = 0;
        }
        run_and_check(random, transfer);
        if (HasFatalFailure() || HasFailure()) return;
    }
}

std::uint64_t heads_times_layers(const Match& match) {
    std::uint64_t total = 0;
    for (const PlanePair& pair : match.pairs) total += pair.heads;
    return total;
}

PoolShape layers_and_heads(std::uint32_t layers, std::uint32_t first_head, std::uint32_t heads) {
    PoolShape shape;
    shape.layers.clear();
    for (std::uint32_t i = 0; i < layers; ++i) shape.layers.push_back(i);
    shape.first_head = first_head;
    shape.heads = heads;
    return shape;
}

TEST(Match, SharesWhatSeveralSendersHoldEvenlyAndRotatesTheShares) {
    Random random = seeded(1);
    const PoolShape shape = layers_and_heads(8, 0, 1);
    std::vector<OwnedPool> sources;
    std::vector<const Pool*> pools;
    sources.reserve(4);
    pools.reserve(4);
    for (int i = 0; i < 4; ++i)
        pools.push_back(&sources.emplace_back(make_pool(random, shape)).pool);
    const OwnedPool destination = make_pool(random, shape);
    std::vector<std::uint32_t> first_layers;
    for (std::uint32_t receiver = 0; receiver < 4; ++receiver) {
        const auto matches = match_pools(pools, destination.pool, receiver);
        ASSERT_TRUE(matches.ok());
        for (const Match& match : *matches) EXPECT_EQ(heads_times_layers(match), 2U);
        std::uint32_t first_layer = 8;
        for (const PlanePair& pair : matches->front().pairs) {
            first_layer =
                std::min(first_layer, destination.pool.planes[pair.destination_plane].layer);
        }
        first_layers.push_back(first_layer);
        EXPECT_EQ(*match_pools(pools, destination.pool, receiver), *matches) << "not deterministic";
    }
    EXPECT_THAT(first_layers, testing::UnorderedElementsAre(0, 2, 4, 6));
}

TEST(Match, LeavesASenderWithNothingToSendEmpty) {
    Random random = seeded(1);
    const OwnedPool needed = make_pool(random, layers_and_heads(2, 0, 2));
    const OwnedPool other = make_pool(random, layers_and_heads(2, 2, 2));
    const OwnedPool destination = make_pool(random, layers_and_heads(2, 0, 2));
    const std::array pools{&needed.pool, &other.pool};
    const auto matches = match_pools(pools, destination.pool);
    ASSERT_TRUE(matches.ok());
    EXPECT_EQ((*matches)[0].pairs.size(), 2U);
    EXPECT_TRUE((*matches)[1].pairs.empty());
    EXPECT_EQ((*matches)[1].token_bytes, 0U);
    EXPECT_FALSE(Walk::make(other.pool, (*matches)[1], Side::source).ok());
}

class Mismatch : public testing::Test {
  protected:
    void expect(const std::string& what) {
        const std::array pools{&source_.pool};
        const auto matches = match_pools(pools, destination_.pool);
        ASSERT_FALSE(matches.ok());
        EXPECT_EQ(matches.status().code(), Code::layout_mismatch);
        EXPECT_THAT(matches.status().message(), HasSubstr(what));
        EXPECT_THAT(matches.status().message(), HasSubstr("kv.0"));
    }
    void expect_incompatible(const std::string& what) {
        expect(what);
        const Status status = check_compatible(source_.pool, destination_.pool);
        EXPECT_EQ(status.code(), Code::layout_mismatch);
        EXPECT_THAT(status.message(), HasSubstr(what));
    }

    Random random_ = reference::seeded(1);
    OwnedPool source_ = make_pool(random_, layers_and_heads(3, 0, 2));
    OwnedPool destination_ = make_pool(random_, layers_and_heads(3, 0, 2));
};

TEST_F(Mismatch, OfDtypes) {
    source_.pool.planes[1].dtype = "float16";
    expect_incompatible("layer 1 (kv): the source has dtype float16, the destination bfloat16");
}

TEST_F(Mismatch, OfElementBytes) {
    for (Plane& plane : source_.pool.planes) plane.element_bytes = 1;
    expect_incompatible("element bytes 1, the destination 2");
}

TEST_F(Mismatch, OfHeadDimensions) {
    for (Plane& plane : source_.pool.planes) plane.elements = 2;
    expect_incompatible("head dimension 2, the destination 8");
}

TEST_F(Mismatch, OfHeadDimensionsWhereOneSideIsSplit) {
    for (Plane& plane : source_.pool.planes) plane.kind = PlaneKind::k;
    expect_incompatible("head dimension 8, the destination 4");
}

TEST_F(Mismatch, OfFingerprints) {
    source_.pool.fingerprint = "another model";
    expect_incompatible("the source holds 'another model', the destination 'model'");
}

TEST_F(Mismatch, OfMissingLayers) {
    source_.pool.planes.pop_back();
    expect("layer 2 (kv), heads 0 to 1: none of the 1 sources holds them");
    EXPECT_TRUE(check_compatible(source_.pool, destination_.pool).ok())
        << "coverage is no part of it";
}

TEST_F(Mismatch, OfMissingHeads) {
    source_.pool.planes[1].heads = 1;
    expect("layer 1 (kv), heads 1 to 1");
}

TEST_F(Mismatch, OfMissingValues) {
    for (Plane& plane : source_.pool.planes) {
        plane.kind = PlaneKind::k;
        plane.elements = 4;
    }
    expect("none of the 1 sources holds them");
}

}  // namespace
}  // namespace mc
