// SPDX-License-Identifier: Apache-2.0
// What planning costs: nanoseconds for each span, and for a whole request. Prints a table; no test.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "layout/copy_plan.hpp"

namespace {

using namespace mc;

constexpr std::uint32_t kLayers = 32;
constexpr std::uint32_t kTokens = 32768;
constexpr std::uint32_t kHeadBytes = 256;  // 128 elements of 2 bytes, each of K and V half of it

struct Side {
    std::string
        layout;  // L, B, H, N from outermost to innermost; a leading "*": each layer on its own
    std::uint32_t page_size = 16;
    std::uint32_t heads = 8;
};

enum class Pages { in_a_row, comb, scattered };

Pool make_pool(const Side& side, std::uint32_t page_count, std::uint64_t base) {
    Pool pool;
    pool.name = "kv";
    pool.page_size = side.page_size;
    pool.page_count = page_count;
    const bool apart = side.layout[0] == '*';
    std::uint64_t page = 0, token = 0, head = 0, layer = 0;
    std::uint64_t unit = kHeadBytes;
    for (std::size_t i = side.layout.size(); i-- > (apart ? 1U : 0U);) {
        switch (side.layout[i]) {
            case 'L': layer = unit, unit *= kLayers; break;
            case 'B': page = unit, unit *= page_count; break;
            case 'H': head = unit, unit *= side.heads; break;
            default: token = unit, unit *= side.page_size; break;
        }
    }
    std::uint64_t place = 0;
    for (std::uint32_t i = 0; i < kLayers; ++i) {
        const std::uint64_t offset = apart ? place : i * layer;
        pool.planes.push_back({.layer = i,
                               .dtype = "bfloat16",
                               .element_bytes = 2,
                               .base = base + offset,
                               .page_stride = page,
                               .token_stride = token,
                               .head_stride = head,
                               .element_stride = 2,
                               .heads = side.heads,
                               .elements = kHeadBytes / 2});
        place += unit + (1 + i * i % 11) * 4096;  // no two layers equally far apart
    }
    return pool;
}

std::vector<std::int32_t> make_pages(Pages kind, std::uint32_t count, std::uint32_t seed) {
    std::vector<std::int32_t> pages(count);
    std::iota(pages.begin(), pages.end(), 0);
    std::mt19937 random(seed);
    if (kind == Pages::scattered) {
        for (std::int32_t& page : pages) page *= 2;
        std::shuffle(pages.begin(), pages.end(), random);
    } else if (kind == Pages::comb) {  // runs of 1 to 4 pages, a hole of one page behind each
        std::int32_t page = 0;
        std::uint32_t left = 0;
        for (std::int32_t& filled : pages) {
            if (left == 0) {
                left = 1 + random() % 4;
                ++page;
            }
            filled = page++;
            --left;
        }
    }
    return pages;
}

template <typename Result>
Result checked(mc::Result<Result> result) {
    if (!result) {
        std::fprintf(stderr, "%s\n", result.status().to_string().c_str());
        std::exit(1);
    }
    return *std::move(result);
}

struct Figures {
    double microseconds = 1e30;
    double make_microseconds = 1e30;  // of the two slices
    std::uint64_t spans = 0;
};

Figures measure(const std::shared_ptr<const Walk>& from, const PageTable& from_pages,
                const std::shared_ptr<const Walk>& to, const PageTable& to_pages) {
    using Clock = std::chrono::steady_clock;
    const auto us = [](Clock::duration passed) {
        return std::chrono::duration<double, std::micro>(passed).count();
    };
    Figures best;
    const auto until = Clock::now() + std::chrono::milliseconds(300);
    for (int round = 0; round < 5 || Clock::now() < until; ++round) {
        const auto start = Clock::now();
        const auto source = checked(Slice::make(from, from_pages, {0, kTokens}));
        const auto destination = checked(Slice::make(to, to_pages, {0, kTokens}));
        const auto made = Clock::now();
        CopyPlan plan(Cursor(source, 0, source->bytes()),
                      Cursor(destination, 0, destination->bytes()));
        std::array<Span, 256> spans;
        std::uint64_t count = 0, sum = 0, got = 0;
        do {
            got = plan.next(spans);
            count += got;
            sum += spans[0].source ^ spans[0].destination;
        } while (got == spans.size());
        asm volatile("" : : "r"(sum));
        best.microseconds = std::min(best.microseconds, us(Clock::now() - start));
        best.make_microseconds = std::min(best.make_microseconds, us(made - start));
        best.spans = count;
    }
    return best;
}

void run(const char* what, const Side& source, const Side& destination, Pages kind) {
    static const char* const names[] = {"in a row", "comb", "scattered"};
    const Pool from = make_pool(source, 2 * kTokens / source.page_size + 2, 1ULL << 40);
    const Pool to = make_pool(destination, 2 * kTokens / destination.page_size + 2, 1ULL << 44);
    const std::array sources{&from};
    const Match match = checked(match_pools(sources, to))[0];
    const auto table = [&](const Pool& pool, std::uint32_t seed) {
        PageTable pages(pool.page_size, pool.page_count, std::nullopt);
        if (!pages.append(make_pages(kind, kTokens / pool.page_size, seed))) std::exit(1);
        return pages;
    };
    const Figures figures =
        measure(checked(Walk::make(from, match, mc::Side::source)), table(from, 1),
                checked(Walk::make(to, match, mc::Side::destination)), table(to, 2));
    std::printf("%-34s %-9s %-27s %9llu %11.2f %10.2f %8.2f\n", what, names[static_cast<int>(kind)],
                to_string(match.order).c_str(), static_cast<unsigned long long>(figures.spans),
                figures.microseconds, figures.make_microseconds,
                figures.microseconds * 1000 / static_cast<double>(figures.spans));
}

}  // namespace

int main() {
    std::printf("%u tokens, %u layers, %u bytes a head; best of many runs\n", kTokens, kLayers,
                kHeadBytes);
    std::printf("%-34s %-9s %-27s %9s %11s %10s %8s\n", "source -> destination", "pages", "order",
                "spans", "total us", "slices us", "ns/span");
    for (const Pages pages : {Pages::in_a_row, Pages::comb, Pages::scattered}) {
        run("LBHNC 16 -> LBHNC 16", {"LBHN"}, {"LBHN"}, pages);
        run("LBNHC 16 -> LBNHC 16", {"LBNH"}, {"LBNH"}, pages);
        run("BLHNC 16 -> BLHNC 16", {"BLHN"}, {"BLHN"}, pages);
        run("BLHNC 16 -> LBHNC 16", {"BLHN"}, {"LBHN"}, pages);
        run("BHLNC 16 -> BHLNC 16, 8 -> 4 heads", {"BHLN"}, {"BHLN", 16, 4}, pages);
        run("LHBNC 16 -> LBHNC 16", {"LHBN"}, {"LBHN"}, pages);
        run("LBHNC 16 -> LBHNC 64", {"LBHN"}, {"LBHN", 64}, pages);
        run("LBNHC 16 -> LBNHC 16, 8 -> 4 heads", {"LBNH"}, {"LBNH", 16, 4}, pages);
        run("LBHNC 16 -> LBHNC 16, 8 -> 2 heads", {"LBHN"}, {"LBHN", 16, 2}, pages);
        run("LBNHC 16 -> LBHNC 16", {"LBNH"}, {"LBHN"}, pages);
        run("slots of 1 -> slots of 1", {"*BNH", 1}, {"*BNH", 1}, pages);
        run("slots of 1 -> LBHNC 16", {"*BNH", 1}, {"LBHN"}, pages);
        run("slots of 1 -> BLNHC 16", {"*BNH", 1}, {"BLNH"}, pages);
        run("one head: slots of 1 -> LBHNC 16", {"*BNH", 1, 1}, {"LBHN", 16, 1}, pages);
    }
    return 0;
}
