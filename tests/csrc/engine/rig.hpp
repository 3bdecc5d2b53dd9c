// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "engine/engine.hpp"

namespace mc::testing {

inline constexpr Duration kPatience = std::chrono::seconds(60);  // only a stuck engine needs it

// One engine that may use one path alone, with a pool of pages of one token each.
class TestEngine {
  public:
    TestEngine(PathKind path, std::uint32_t pages, std::uint32_t page_bytes,
               EngineOptions options = {})
        : page_bytes_(page_bytes), memory_(std::size_t{pages} * page_bytes) {
        options.paths.fill(false);
        options.paths[static_cast<std::size_t>(path)] = true;
        options.eager_bytes = 64U << 10;
        options.ring_bytes = 256U << 10;
        options.tcp_lanes = 2;
        options.busy_poll = std::chrono::microseconds(50);
        auto made = Engine::create(options);
        if (!made) std::abort();
        engine_ = std::move(*made);
        Pool pool;
        pool.name = "kv";
        pool.page_count = pages;
        Plane plane;
        plane.dtype = "uint8";
        plane.base = reinterpret_cast<std::uint64_t>(memory_.data());
        plane.page_stride = page_bytes;
        plane.element_stride = 1;
        plane.elements = page_bytes;
        plane.kind = PlaneKind::mla;
        pool.planes.push_back(plane);
        if (!engine_->register_pool(pool)) std::abort();
    }

    Engine* operator->() { return engine_.get(); }

    void fill(const std::vector<std::int32_t>& pages, std::uint8_t value) {
        for (const std::int32_t page : pages) std::memset(at(page), value, page_bytes_);
    }
    // How many of the pages' bytes are not `value`.
    std::size_t others(const std::vector<std::int32_t>& pages, std::uint8_t value) {
        std::size_t count = 0;
        for (const std::int32_t page : pages) {
            for (std::uint32_t i = 0; i < page_bytes_; ++i) count += at(page)[i] != value;
        }
        return count;
    }
    std::shared_ptr<Transfer> send(const std::string& tag) {
        return *engine_->send(tag, kPatience);
    }
    std::shared_ptr<Transfer> recv(const std::string& sender, const std::string& tag,
                                   const std::vector<std::int32_t>& pages,
                                   Duration deadline = kPatience) {
        return *try_recv(sender, tag, pages, deadline);
    }
    Result<std::shared_ptr<Transfer>> try_recv(const std::string& sender, const std::string& tag,
                                               const std::vector<std::int32_t>& pages,
                                               Duration deadline = kPatience) {
        RecvOptions options;
        options.senders = {sender};
        options.tag = tag;
        options.parts = {{"kv", pages, 0}};
        options.tokens = static_cast<std::uint32_t>(pages.size());
        options.deadline = deadline;
        return engine_->recv(std::move(options));
    }

  private:
    std::uint8_t* at(std::int32_t page) {
        return memory_.data() + static_cast<std::size_t>(page) * page_bytes_;
    }

    const std::uint32_t page_bytes_;
    std::vector<std::uint8_t> memory_;
    std::unique_ptr<Engine> engine_;
};

}  // namespace mc::testing
