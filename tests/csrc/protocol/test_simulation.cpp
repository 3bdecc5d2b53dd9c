// SPDX-License-Identifier: Apache-2.0
// Many seeds of Chaos. MC_SEEDS is how many, MC_SEED runs that one alone.
#include <gtest/gtest.h>

#include <cstdlib>
#include <exception>
#include <filesystem>
#include <string>

#include "protocol/chaos.hpp"

namespace mc::simulation {
namespace {

constexpr std::uint64_t kSeeds = 1000;
constexpr std::uint64_t kShards = 8;  // tests that can run at the same time

std::uint64_t number_from(const char* variable, std::uint64_t otherwise) {
    const char* text = std::getenv(variable);
    return text == nullptr ? otherwise : std::strtoull(text, nullptr, 10);
}

std::string how_to_replay(std::uint64_t seed) {
    return "seed " + std::to_string(seed) + "; replay it with: MC_SEED=" + std::to_string(seed) +
           " " + std::filesystem::read_symlink("/proc/self/exe").string() +
           " --gtest_filter='*Simulation.EverythingEndsOnce*/" +
           std::to_string((seed - 1) % kShards) + "'";
}

// Runs a seed; returns how many recvs went well.
std::size_t live_through(std::uint64_t seed) {
    SCOPED_TRACE(how_to_replay(seed));
    Chaos chaos(seed);
    try {
        chaos.run();
    } catch (const std::exception& thrown) {
        ADD_FAILURE() << "the protocol threw: " << thrown.what();
    }
    return chaos.succeeded();
}

class Simulation : public testing::TestWithParam<std::uint64_t> {};
INSTANTIATE_TEST_SUITE_P(Shards, Simulation, testing::Range(std::uint64_t{0}, kShards),
                         testing::PrintToStringParamName());

TEST_P(Simulation, EverythingEndsOnceAndNothingIsLeft) {
    if (const std::uint64_t only = number_from("MC_SEED", 0); only != 0) {
        if ((only - 1) % kShards != GetParam()) GTEST_SKIP() << "MC_SEED belongs to another shard";
        live_through(only);
        return;
    }
    const std::uint64_t seeds = number_from("MC_SEEDS", kSeeds);
    std::size_t succeeded = 0;
    for (std::uint64_t seed = GetParam() + 1; seed <= seeds && !HasFailure(); seed += kShards)
        succeeded += live_through(seed);
    EXPECT_GT(succeeded, 0U) << "nothing was tested";
}

TEST(SimulationItself, ReplaysASeedIdentically) {
    const auto trace = [](std::uint64_t seed) {
        Chaos chaos(seed);
        chaos.run();
        return chaos.trace();
    };
    std::set<std::uint64_t> different;
    for (std::uint64_t seed = 1; seed <= 12; ++seed) {
        const std::uint64_t first = trace(seed);
        EXPECT_EQ(trace(seed), first) << how_to_replay(seed);
        different.insert(first);
    }
    EXPECT_EQ(different.size(), 12U) << "the trace does not tell seeds apart";
}

}  // namespace
}  // namespace mc::simulation
