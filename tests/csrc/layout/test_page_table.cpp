// SPDX-License-Identifier: Apache-2.0
#include "layout/page_table.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>

#include "layout/reference.hpp"

namespace mc {

namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

constexpr std::int32_t kNull = 0;

PageTable make_table(std::vector<std::int32_t> pages, std::uint32_t first_token = 0) {
    PageTable table(4, 100, kNull, first_token);
    EXPECT_TRUE(table.append(pages).ok());
    return table;
}

std::vector<PageRun> runs(const PageTable& table, TokenRange range) {
    auto found = table.runs(range);
    EXPECT_TRUE(found.ok()) << found.status().to_string();
    return found.ok() ? *found : std::vector<PageRun>();
}

TEST(PageTable, CountsTokensFromItsFirstOne) {
    EXPECT_EQ(make_table({}).tokens(), (TokenRange{0, 0}));
    EXPECT_EQ(make_table({5, 6, 7}).tokens(), (TokenRange{0, 12}));
    EXPECT_EQ(make_table({5, 6, 7}, 8).tokens(), (TokenRange{8, 20}));
}

TEST(PageTable, RefusesPagesThatDoNotExistAndKeepsNoneOfTheCall) {
    PageTable table = make_table({5});
    for (const std::int32_t bad : {100, -1, std::numeric_limits<std::int32_t>::min()}) {
        const std::array pages{6, bad, 7};
        const Status status = table.append(pages);
        EXPECT_EQ(status.code(), Code::invalid_argument);
        EXPECT_THAT(status.message(),
                    HasSubstr("page " + std::to_string(bad) + " is out of range"));
    }
    EXPECT_THAT(table.pages(), ElementsAre(5));
}

TEST(PageTable, AcceptsANullPageThatIsNoPage) {
    PageTable table(4, 10, -1);
    EXPECT_TRUE(table.append(std::array{3, -1, 9}).ok());
    EXPECT_TRUE(table.is_null(-1));
    EXPECT_FALSE(table.is_null(3));
    EXPECT_FALSE(table.append(std::array{-2}).ok());
}

TEST(PageTable, RefusesTokenNumbersBeyond32Bits) {
    PageTable table(1U << 20, 10, std::nullopt, 0xfff00000U - (1U << 20));
    EXPECT_TRUE(table.append(std::array{1}).ok());
    EXPECT_FALSE(table.append(std::array{1}).ok());
    EXPECT_EQ(table.tokens().end, 0xfff00000U);
}

TEST(PageTable, TruncatesToThePagesOfEarlierTokens) {
    for (std::uint32_t token = 0; token <= 24; ++token) {
        PageTable table = make_table({5, 6, 7}, 8);
        table.truncate(token);
        std::vector<std::int32_t> kept;
        for (const std::int32_t page : {5, 6, 7}) {
            const std::uint32_t first = 8 + 4 * static_cast<std::uint32_t>(page - 5);
            if (first < token) kept.push_back(page);
        }
        EXPECT_THAT(table.pages(), testing::ElementsAreArray(kept)) << token;
    }
}

TEST(PageTable, SkipsNullPages) {
    const PageTable table = make_table({kNull, 5, kNull, kNull, 6, 8}, 4);
    EXPECT_THAT(table.present({0, 100}), ElementsAre(TokenRange{8, 12}, TokenRange{20, 28}));
    EXPECT_THAT(table.present({9, 21}), ElementsAre(TokenRange{9, 12}, TokenRange{20, 21}));
    EXPECT_THAT(table.present({12, 20}), IsEmpty());
    EXPECT_THAT(table.present({28, 40}), IsEmpty());
    EXPECT_THAT(table.present({3, 3}), IsEmpty());
    EXPECT_THAT(make_table({}).present({0, 5}), IsEmpty());
}

TEST(PageTable, FindsRuns) {
    const PageTable table = make_table({7, 8, 9, 3, 4, 2, 1, 99});
    EXPECT_THAT(runs(table, {0, 32}),
                ElementsAre(PageRun{7, 3, 0}, PageRun{3, 2, 3}, PageRun{2, 1, 5}, PageRun{1, 1, 6},
                            PageRun{99, 1, 7}));
    EXPECT_THAT(runs(table, {5, 14}), ElementsAre(PageRun{8, 2, 0}, PageRun{3, 1, 2}));
    EXPECT_THAT(runs(table, {6, 7}), ElementsAre(PageRun{8, 1, 0}));
    EXPECT_THAT(runs(table, {6, 6}), IsEmpty());
}

TEST(PageTable, AppendsRunsThatCountFromTheirOwnRange) {
    const PageTable table = make_table({7, 8, 3});
    std::vector<PageRun> found;
    ASSERT_TRUE(table.append_runs({0, 4}, found).ok());
    ASSERT_TRUE(table.append_runs({4, 12}, found).ok());
    EXPECT_THAT(found, ElementsAre(PageRun{7, 1, 0}, PageRun{8, 1, 0}, PageRun{3, 1, 1}));
}

TEST(PageTable, FindsMaximalRunsOfAnyPages) {
    for (std::uint64_t seed = 0; seed < 300; ++seed) {
        SCOPED_TRACE("seed " + std::to_string(seed));
        reference::Random random(seed);
        PageTable table(1, 300, std::nullopt);
        const auto pages = reference::random_pages(random, reference::pick(random, 1, 300), 300);
        ASSERT_TRUE(table.append(pages).ok());
        std::vector<std::int32_t> listed;
        std::uint32_t last_end = std::numeric_limits<std::uint32_t>::max();
        for (const PageRun& run : runs(table, table.tokens())) {
            EXPECT_EQ(run.before, listed.size());
            EXPECT_NE(run.first_page, last_end) << "two runs that should be one";
            for (std::uint32_t i = 0; i < run.pages; ++i) {
                listed.push_back(static_cast<std::int32_t>(run.first_page + i));
            }
            last_end = run.first_page + run.pages;
        }
        ASSERT_EQ(listed, pages);
    }
}

TEST(PageTable, SaysWhichTokensHaveNoPage) {
    const PageTable table = make_table({5, kNull}, 8);
    std::vector<PageRun> found{{1, 2, 3}};
    for (const TokenRange outside : {TokenRange{7, 9}, TokenRange{15, 17}, TokenRange{40, 41}}) {
        const Status status = table.append_runs(outside, found);
        EXPECT_EQ(status.code(), Code::invalid_argument);
        EXPECT_THAT(status.message(), HasSubstr("pages exist for 8 to 15"));
    }
    EXPECT_THAT(table.append_runs({9, 14}, found).message(),
                HasSubstr("token 12 lies on the null page"));
    EXPECT_THAT(table.append_runs({13, 14}, found).message(),
                HasSubstr("token 13 lies on the null page"));
    EXPECT_EQ(found.size(), 1U);
    EXPECT_THAT(make_table({}).runs({0, 1}).status().message(), HasSubstr("pages exist for none"));
}

TEST(TokenRanges, Intersect) {
    const std::vector<TokenRange> left{{0, 5}, {8, 12}, {20, 30}};
    const std::vector<TokenRange> right{{3, 9}, {12, 13}, {21, 22}, {25, 40}};
    const std::vector<TokenRange> both{{3, 5}, {8, 9}, {21, 22}, {25, 30}};
    EXPECT_EQ(intersect(left, right), both);
    EXPECT_EQ(intersect(right, left), both);
    EXPECT_THAT(intersect(left, {}), IsEmpty());
    EXPECT_EQ(intersect(left, left), left);
    EXPECT_EQ(count_tokens(both), 9U);
    EXPECT_EQ(count_tokens({}), 0U);
    EXPECT_EQ(count_tokens(std::array{TokenRange{0, 0xffffffffU}, TokenRange{0, 0xffffffffU}}),
              0x1fffffffeU);
}

}  // namespace
}  // namespace mc
