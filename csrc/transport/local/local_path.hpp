// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "transport/pull_path.hpp"

namespace mc {

// Copies between two engines of one process.
class LocalPath final : public PullPath {
  public:
    explicit LocalPath(EventLoop& loop, OnFailure on_failure = nullptr);
    ~LocalPath() override;

    [[nodiscard]] PathKind kind() const override { return PathKind::local; }

  protected:
    // Unlike a read through the kernel, a copy from pages that were handed back could fault; so the
    // source's hold is found by its guard, and entered as well, under the piece's epoch.
    Status read(const Pull& job, std::span<const Span> spans) override;
};

}  // namespace mc
