// SPDX-License-Identifier: Apache-2.0
#include "bindings/baseline/copies.hpp"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <system_error>

namespace mc::baseline {

namespace {

void* pointer(std::uint64_t address) {
    return reinterpret_cast<void*>(address);  // NOLINT(performance-no-int-to-ptr)
}

}  // namespace

void copy(std::span<const Span> spans) {
    for (const Span& span : spans) {
        std::memcpy(pointer(span.destination), pointer(span.source), span.length);
    }
}

void write_process(pid_t pid, std::span<const Span> spans) {
    std::array<iovec, kMaxVectors> local;
    std::array<iovec, kMaxVectors> remote;
    std::uint64_t offset = 0;  // into the first span, when a call stopped midway
    while (!spans.empty()) {
        const std::size_t count = std::min(spans.size(), kMaxVectors);
        for (std::size_t i = 0; i < count; ++i) {
            local[i] = {pointer(spans[i].source), spans[i].length};
            remote[i] = {pointer(spans[i].destination), spans[i].length};
        }
        local[0] = {pointer(spans[0].source + offset), spans[0].length - offset};
        remote[0] = {pointer(spans[0].destination + offset), spans[0].length - offset};

        const ssize_t written =
            process_vm_writev(pid, local.data(), count, remote.data(), count, 0);
        if (written < 0) {
            if (errno == EINTR) continue;
            throw std::system_error(errno, std::generic_category(), "process_vm_writev");
        }
        offset += static_cast<std::uint64_t>(written);
        while (!spans.empty() && offset >= spans[0].length) {
            offset -= spans[0].length;
            spans = spans.subspan(1);
        }
    }
}

}  // namespace mc::baseline
