// SPDX-License-Identifier: Apache-2.0
#include "transport/shm/ring_memory.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <string>
#include <utility>

#include "transport/numa.hpp"

namespace mc {
namespace {

// The file: one page of control words for each ring, then the bytes of each ring.
constexpr std::size_t kControlBytes = 4096;
constexpr std::size_t kControls = 2 * kControlBytes;
static_assert(sizeof(RingControl) <= kControlBytes);

constexpr int kSeals = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;

std::size_t file_bytes(std::size_t capacity) { return kControls + 2 * capacity; }

}  // namespace

Result<std::unique_ptr<RingMemory>> RingMemory::create(std::size_t capacity,
                                                       std::optional<unsigned> node) {
    capacity = std::bit_ceil(std::clamp(capacity, kSmallest, kLargest));
    FileDescriptor memory(
        ::memfd_create("mooncake_connector ring", MFD_CLOEXEC | MFD_ALLOW_SEALING));
    if (!memory) return errno_status("cannot make shared memory", errno);
    const auto bytes = static_cast<off_t>(file_bytes(capacity));
    if (::ftruncate(memory.get(), bytes) != 0)
        return errno_status("cannot size shared memory", errno);
    std::unique_ptr<RingMemory> rings(new RingMemory(std::move(memory), true));
    MC_RETURN_IF_ERROR(rings->map(capacity));
    if (node) {
        for (const Ring& ring : rings->rings_)
            (void)prefer_numa_node(ring.data, ring.capacity, *node);
    }
    // All of it now: where memory for a page is refused later, touching the page is a SIGBUS.
    if (const int error = ::posix_fallocate(rings->descriptor(), 0, bytes); error != 0) {
        return errno_status("cannot get " + std::to_string(bytes) + " bytes of shared memory",
                            error);
    }
    if (::fcntl(rings->descriptor(), F_ADD_SEALS, kSeals) != 0)
        return errno_status("cannot seal shared memory", errno);
    return rings;
}

Result<std::unique_ptr<RingMemory>> RingMemory::adopt(FileDescriptor memory) {
    // Memory that its owner could shrink would turn any access to it into a SIGBUS.
    const int seals = ::fcntl(memory.get(), F_GET_SEALS);
    if (seals < 0) return errno_status("the peer's ring is not sealable memory", errno);
    if ((seals & (F_SEAL_SHRINK | F_SEAL_GROW)) != (F_SEAL_SHRINK | F_SEAL_GROW)) {
        return Status(Code::protocol, "the peer's ring is not sealed against resizing");
    }
    struct stat about{};
    if (::fstat(memory.get(), &about) != 0) return errno_status("cannot examine a ring", errno);
    const auto bytes = static_cast<std::size_t>(about.st_size);
    const std::size_t capacity = bytes > kControls ? (bytes - kControls) / 2 : 0;
    if (!std::has_single_bit(capacity) || capacity < kSmallest || capacity > kLargest ||
        bytes != file_bytes(capacity)) {
        return Status(Code::protocol, "the peer's ring has " + std::to_string(bytes) + " bytes");
    }
    std::unique_ptr<RingMemory> rings(new RingMemory(std::move(memory), false));
    MC_RETURN_IF_ERROR(rings->map(capacity));
    return rings;
}

Status RingMemory::map(std::size_t capacity) {
    // One reservation, in which the control pages and each ring's bytes, twice, are then placed.
    mapped_bytes_ = kControls + 4 * capacity;
    void* const reserved = ::mmap(nullptr, mapped_bytes_, PROT_NONE,
                                  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (reserved == MAP_FAILED) return errno_status("cannot reserve addresses for a ring", errno);
    mapping_ = static_cast<std::uint8_t*>(reserved);

    const auto place = [this](std::size_t at, std::size_t offset, std::size_t bytes) {
        return ::mmap(mapping_ + at, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED,
                      memory_.get(), static_cast<off_t>(offset)) != MAP_FAILED;
    };
    bool placed = place(0, 0, kControls);
    for (std::size_t i = 0; i < 2; ++i) {
        const std::size_t at = kControls + 2 * i * capacity;
        const std::size_t offset = kControls + i * capacity;
        placed = placed && place(at, offset, capacity) && place(at + capacity, offset, capacity);
        rings_[i] = {reinterpret_cast<RingControl*>(mapping_ + i * kControlBytes), mapping_ + at,
                     capacity};
    }
    return placed ? Status() : errno_status("cannot map a ring", errno);
}

RingMemory::~RingMemory() {
    if (mapping_ != nullptr) ::munmap(mapping_, mapped_bytes_);
}

}  // namespace mc
