// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

// A failed expectation is what libFuzzer has to find: it is printed, and ends the process.
extern "C" int LLVMFuzzerInitialize(int* /*argc*/, char*** /*argv*/) {
    GTEST_FLAG_SET(break_on_failure, true);
    return 0;
}
