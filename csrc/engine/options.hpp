// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "core/clock.hpp"
#include "core/log.hpp"
#include "protocol/actions.hpp"
#include "transport/path.hpp"

namespace mc {

// What one engine needs to know; mooncake_connector/config.py documents each option.
struct EngineOptions {
    std::string host = "127.0.0.1";
    std::uint16_t port = 0;
    std::string advertise;  // host that peers are told; empty: `host`
    std::array<bool, kPathKinds> paths{true, true, true, true, true, true};
    bool strict = false;
    bool cma_any = false;  // let every process of this user read this one (PR_SET_PTRACER)
    std::string ipc_dir;
    std::size_t io_threads = 2;
    std::size_t copy_threads = 2;
    std::size_t tcp_lanes = 4;
    std::size_t cma_min_span = 0;
    std::size_t eager_bytes = 0;
    std::size_t ring_bytes = 0;
    Duration busy_poll{};
    ProtocolOptions protocol;
    LogLevel log_level = LogLevel::info;
    // For tests: stands between the engine and each path that it makes, in the path's thread.
    using OnFailure = std::function<void(Status)>;
    std::function<std::unique_ptr<Path>(EventLoop&, std::unique_ptr<Path>, const OnFailure&)>
        wrap_path;

    [[nodiscard]] bool allows(PathKind kind) const { return paths[static_cast<std::size_t>(kind)]; }
    // As HELLO carries it: bit n for the path with number n.
    [[nodiscard]] std::uint8_t path_bits() const {
        unsigned bits = 0;
        for (std::size_t i = 0; i < paths.size(); ++i) bits |= paths[i] ? 1U << i : 0U;
        return static_cast<std::uint8_t>(bits);
    }
};

}  // namespace mc
