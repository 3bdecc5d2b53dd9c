// SPDX-License-Identifier: Apache-2.0
#include "core/status.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cerrno>
#include <set>

namespace mc {
namespace {

using testing::HasSubstr;

TEST(Status, IsOkUnlessTold) {
    const Status status;
    EXPECT_TRUE(status.ok());
    EXPECT_TRUE(status);
    EXPECT_EQ(status.code(), Code::ok);
    EXPECT_EQ(status.message(), "");
    EXPECT_EQ(status.to_string(), "ok");
    EXPECT_TRUE(status.with_context("no matter").ok());
}

TEST(Status, KeepsItsCodeUnderContext) {
    const Status cause(Code::peer_lost, "connection reset");
    const Status status = cause.with_context("recv 7").with_context("request abc");
    EXPECT_FALSE(status);
    EXPECT_EQ(status.code(), Code::peer_lost);
    EXPECT_EQ(status.message(), "request abc: recv 7: connection reset");
    EXPECT_EQ(status.to_string(), "peer lost: request abc: recv 7: connection reset");
    EXPECT_EQ(cause.message(), "connection reset");
}

TEST(Status, HasANameForEachCode) {
    std::set<std::string_view> names;
    for (int code = 0; code <= static_cast<int>(Code::internal); ++code) {
        EXPECT_TRUE(names.insert(to_string(static_cast<Code>(code))).second);
    }
    EXPECT_FALSE(names.contains("unknown"));
    EXPECT_EQ(to_string(static_cast<Code>(200)), "unknown");
}

TEST(Status, ComesFromErrno) {
    EXPECT_EQ(errno_status("connect", ECONNREFUSED).code(), Code::unreachable);
    EXPECT_EQ(errno_status("send", EPIPE).code(), Code::peer_lost);
    EXPECT_EQ(errno_status("socket", EMFILE).code(), Code::resource_exhausted);
    EXPECT_EQ(errno_status("bind", EADDRINUSE).code(), Code::invalid_argument);
    EXPECT_EQ(errno_status("process_vm_readv", EPERM).code(), Code::unsupported);
    EXPECT_EQ(errno_status("recv", ETIMEDOUT).code(), Code::timeout);
    EXPECT_EQ(errno_status("what", 4095).code(), Code::internal);
    EXPECT_THAT(errno_status("bind", EADDRINUSE).message(),
                HasSubstr("bind: Address already in use"));
}

Result<int> half(int value) {
    if (value % 2 != 0) return Status(Code::invalid_argument, "odd");
    return value / 2;
}

Status check_twice(int value) {
    MC_RETURN_IF_ERROR(half(value).status());
    MC_RETURN_IF_ERROR(half(value / 2).status());
    return {};
}

TEST(Result, HoldsAValueOrAStatus) {
    const Result<int> good = half(8);
    ASSERT_TRUE(good);
    EXPECT_EQ(*good, 4);
    EXPECT_TRUE(good.status().ok());
    const Result<int> bad = half(7);
    EXPECT_FALSE(bad.ok());
    EXPECT_EQ(bad.status().message(), "odd");
    Result<std::unique_ptr<int>> moved(std::make_unique<int>(3));
    EXPECT_EQ(*moved->get(), 3);
    EXPECT_EQ(**std::move(moved), 3);
}

TEST(Result, LeavesAFunctionWithTheFirstFailure) {
    EXPECT_TRUE(check_twice(4).ok());
    EXPECT_EQ(check_twice(6).message(), "odd");
    EXPECT_EQ(check_twice(7).message(), "odd");
}

}  // namespace
}  // namespace mc
