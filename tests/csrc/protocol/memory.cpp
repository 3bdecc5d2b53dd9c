// SPDX-License-Identifier: Apache-2.0
#include "protocol/memory.hpp"

#include <gtest/gtest.h>

#include <functional>

namespace mc::simulation {

namespace {

constexpr std::uint32_t kElements = 8;  // bytes of one token in one head and layer, K and V
constexpr std::uint8_t kSpoilt = 0xdb;

std::uint8_t pattern(std::size_t tag, std::uint64_t layer, std::uint64_t head, std::uint64_t token,
                     std::uint64_t element) {
    std::uint64_t mixed = tag;
    for (const std::uint64_t part : {layer, head, token, element}) {
        mixed = (mixed ^ (part + 1)) * 0x9e3779b97f4a7c15;
        mixed ^= mixed >> 29;
    }
    return static_cast<std::uint8_t>(mixed);
}

}  // namespace

Memory::Memory(const Shape& shape) {
    pool_.name = shape.name;
    pool_.fingerprint = "model";
    pool_.page_size = shape.page_size;
    pool_.page_count = shape.page_count;
    pool_.null_page = shape.null_page;
    for (std::uint32_t i = 0; i < shape.layers; ++i) {
        Plane plane;
        plane.layer = shape.first_layer + i;
        plane.dtype = "int8";
        plane.heads = shape.heads;
        plane.first_head = shape.first_head;
        plane.elements = kElements;
        plane.element_stride = 1;
        plane.head_stride = kElements;
        plane.token_stride = plane.head_stride * shape.heads;
        plane.page_stride = plane.token_stride * shape.page_size;
        auto& bytes = planes_.emplace_back(plane.page_stride * shape.page_count, kSpoilt);
        plane.base = reinterpret_cast<std::uint64_t>(bytes.data());
        pool_.planes.push_back(plane);
    }
    for (std::uint32_t page = 0; page < shape.page_count; ++page) {
        if (shape.null_page != static_cast<std::int32_t>(page))
            free_.push_back(static_cast<std::int32_t>(page));
    }
}

std::vector<std::int32_t> Memory::take(std::size_t count) {
    EXPECT_LE(count, free_.size()) << "too few pages for this test";
    count = std::min(count, free_.size());
    std::vector<std::int32_t> taken(free_.begin(),
                                    free_.begin() + static_cast<std::ptrdiff_t>(count));
    free_.erase(free_.begin(), free_.begin() + static_cast<std::ptrdiff_t>(count));
    for (const std::int32_t page : taken)
        EXPECT_EQ(trespasses({&page, 1}), 0U) << "page " << page << " was written to while free";
    return taken;
}

std::size_t Memory::trespasses(std::span<const std::int32_t> pages) const {
    std::size_t bytes = 0;
    for_each_byte("", pages, 0, [&](std::uint32_t, const std::uint8_t* byte, std::uint8_t) {
        if (*byte != kSpoilt) ++bytes;
    });
    return bytes;
}

std::size_t Memory::trespasses() const {
    return trespasses(std::vector<std::int32_t>(free_.begin(), free_.end()));
}

void Memory::give_back(std::span<const std::int32_t> pages) {
    spoil(pages);
    for (const std::int32_t page : pages) {
        if (pool_.null_page != page) free_.push_back(page);
    }
}

template <typename Visit>
void Memory::for_each_byte(std::string_view tag, std::span<const std::int32_t> pages,
                           std::uint32_t first_token, Visit visit) const {
    const std::size_t hash = std::hash<std::string_view>{}(tag);
    for (std::size_t i = 0; i < pages.size() * pool_.page_size; ++i) {
        const std::int32_t page = pages[i / pool_.page_size];
        const auto token = static_cast<std::uint32_t>(first_token + i);
        if (pool_.null_page == page) continue;
        for (const Plane& plane : pool_.planes) {
            for (std::uint64_t head = 0; head < plane.heads; ++head) {
                auto* byte = reinterpret_cast<std::uint8_t*>(
                    plane.base + static_cast<std::uint64_t>(page) * plane.page_stride +
                    i % pool_.page_size * plane.token_stride + head * plane.head_stride);
                for (std::uint64_t element = 0; element < kElements; ++element, ++byte) {
                    visit(token, byte,
                          pattern(hash, plane.layer, plane.first_head + head, token, element));
                }
            }
        }
    }
}

void Memory::fill(std::string_view tag, std::span<const std::int32_t> pages,
                  std::uint32_t first_token, TokenRange tokens) {
    for_each_byte(tag, pages, first_token,
                  [&](std::uint32_t token, std::uint8_t* byte, std::uint8_t right) {
                      if (token >= tokens.first && token < tokens.end) *byte = right;
                  });
}

void Memory::spoil(std::span<const std::int32_t> pages) {
    for_each_byte("", pages, 0,
                  [](std::uint32_t, std::uint8_t* byte, std::uint8_t) { *byte = kSpoilt; });
}

std::size_t Memory::wrong_bytes(std::string_view tag, std::span<const std::int32_t> pages,
                                std::uint32_t first_token, TokenRange tokens) const {
    std::size_t wrong = 0;
    for_each_byte(tag, pages, first_token,
                  [&](std::uint32_t token, const std::uint8_t* byte, std::uint8_t right) {
                      if (token >= tokens.first && token < tokens.end && *byte != right) ++wrong;
                  });
    return wrong;
}

}  // namespace mc::simulation
