// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sys/uio.h>

#include <cstddef>
#include <cstdint>
#include <span>

// The yardsticks of the benchmark: the plainest code that moves scattered bytes in each way. They
// share nothing with the engine, so that no change there can move what the engine is held against.
namespace mc::baseline {

// `length` bytes at `address` of this process: one row of an (n, 2) array of uint64.
struct Segment {
    std::uint64_t address;
    std::uint64_t length;
};

// Copy `length` bytes from `source` to `destination`: one row of an (n, 3) array of uint64.
struct Span {
    std::uint64_t source;
    std::uint64_t destination;
    std::uint64_t length;
};

// What one sendmsg, readv or process_vm_writev accepts at most (the kernel's UIO_MAXIOV).
inline constexpr std::size_t kMaxVectors = 1024;
// What the packed ways gather before they pass it on.
inline constexpr std::size_t kPackBytes = std::size_t{256} * 1024;

// Walks the bytes of a list of segments once, from the first to the last.
class SegmentWalk {
  public:
    explicit SegmentWalk(std::span<const Segment> segments);

    [[nodiscard]] std::uint64_t remaining() const { return remaining_; }

    // Copies up to `capacity` bytes to `out` and moves on; returns how many. Less than `capacity`
    // means the end.
    std::size_t gather(std::byte* out, std::size_t capacity);
    // Copies `bytes` bytes, at most remaining(), from `in` to the segments and moves on.
    void scatter(const std::byte* in, std::size_t bytes);

    // Describes the next bytes without moving on; returns how many vectors were filled.
    std::size_t describe(std::span<iovec, kMaxVectors> out) const;
    // Moves on by `bytes`, at most remaining().
    void advance(std::size_t bytes);

  private:
    template <typename Copy>
    std::size_t walk(std::size_t limit, Copy&& copy);

    std::span<const Segment> segments_;
    std::size_t index_ = 0;        // of the segment that holds the next byte
    std::uint64_t offset_ = 0;     // of that byte within the segment
    std::uint64_t remaining_ = 0;  // bytes
};

}  // namespace mc::baseline
