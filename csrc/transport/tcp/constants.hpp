// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>

namespace mc {

// Packed bytes should still be in the L2 cache when the kernel copies them, and a system call
// should move enough to be worth it.
inline constexpr std::size_t kTcpStagingBytes = 256U << 10;
// A batch is not cut shorter than this only to fill the staging buffer up.
inline constexpr std::size_t kTcpSmallestCutBytes = 16U << 10;
// Mean length of segments from which the kernel takes them from the pages (sendmsg), and puts them
// there (recvmsg).
inline constexpr std::uint64_t kTcpDirectSendBytes = 2U << 10;
inline constexpr std::uint64_t kTcpDirectReceiveBytes = 2U << 10;

}  // namespace mc
