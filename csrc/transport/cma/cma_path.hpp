// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sys/types.h>

#include "transport/pull_path.hpp"

namespace mc {

// Reads the memory of another process on this host with process_vm_readv: one copy, no help from
// the peer, whose threads need not even run.
class CmaPath final : public PullPath {
  public:
    // `pidfd` is of the process `pid`, whose memory was found readable
    // (SameHostLink::cma_readable). To be made and destroyed in the loop's thread.
    CmaPath(EventLoop& loop, pid_t pid, FileDescriptor pidfd, OnFailure on_failure = nullptr);
    ~CmaPath() override;

    [[nodiscard]] PathKind kind() const override { return PathKind::cma; }
    void close(Status reason) override;

  protected:
    Status read(const Pull& job, std::span<const Span> spans) override;

  private:
    const pid_t pid_;
    FileDescriptor pidfd_;
};

}  // namespace mc
