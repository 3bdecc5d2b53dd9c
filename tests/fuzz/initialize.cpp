// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <cstdlib>

namespace {

// A failed expectation is what libFuzzer has to find. It keeps the input of an abort, and not that
// of the trap by which GoogleTest would break.
class AbortAtFailure : public testing::EmptyTestEventListener {
    void OnTestPartResult(const testing::TestPartResult& result) override {
        if (result.failed()) std::abort();
    }
};

}  // namespace

extern "C" int LLVMFuzzerInitialize(int* /*argc*/, char*** /*argv*/) {
    // It owns them. The one that prints came first.
    testing::UnitTest::GetInstance()->listeners().Append(new AbortAtFailure);
    return 0;
}
