// SPDX-License-Identifier: Apache-2.0
#include "layout/digest.hpp"

#include <algorithm>
#include <bit>
#include <cstring>

namespace mc {
namespace {

static_assert(std::endian::native == std::endian::little, "words are read as they lie in memory");

__extension__ using Wide = unsigned __int128;

constexpr std::uint64_t mix_word(std::uint64_t lane, std::uint64_t word) {
    const Wide product = Wide{lane ^ word} * Digest::kFactor;
    return static_cast<std::uint64_t>(product) ^ static_cast<std::uint64_t>(product >> 64);
}

}  // namespace

Digest::Digest() {
    for (std::size_t i = 0; i < kLanes; ++i) lanes_[i] = kFactor * (i + 1);
}

void Digest::mix(Lanes& lanes, const std::byte* groups, std::size_t count) {
    Lanes local = lanes;  // a copy stays in registers
    for (std::size_t group = 0; group < count; ++group) {
        Lanes words;
        std::memcpy(words.data(), groups + group * kGroup, kGroup);
        for (std::size_t i = 0; i < kLanes; ++i) local[i] = mix_word(local[i], words[i]);
    }
    lanes = local;
}

void Digest::add(std::span<const std::byte> bytes) {
    bytes_ += bytes.size();
    if (filled_ > 0) {
        const std::size_t taken = std::min(kGroup - filled_, bytes.size());
        std::memcpy(partial_.data() + filled_, bytes.data(), taken);
        filled_ += taken;
        bytes = bytes.subspan(taken);
        if (filled_ < kGroup) return;
        mix(lanes_, partial_.data(), 1);
        filled_ = 0;
    }
    mix(lanes_, bytes.data(), bytes.size() / kGroup);
    const auto rest = bytes.last(bytes.size() % kGroup);
    std::copy(rest.begin(), rest.end(), partial_.begin());
    filled_ = rest.size();
}

std::uint64_t Digest::value() const {
    Lanes lanes = lanes_;
    if (filled_ > 0) {
        auto padded = partial_;
        std::fill(padded.begin() + static_cast<std::ptrdiff_t>(filled_), padded.end(),
                  std::byte{0});
        mix(lanes, padded.data(), 1);
    }
    std::uint64_t value = mix_word(kFactor, bytes_);
    for (const std::uint64_t lane : lanes) value = mix_word(value, lane);
    return value;
}

std::uint64_t digest(const Cursor& cursor) {
    Cursor walked = cursor;
    Digest digest;
    std::array<Segment, 64> segments;
    std::size_t count = 0;
    do {
        count = walked.next(segments);
        for (const Segment& segment : std::span(segments).first(count)) {
            digest.add({reinterpret_cast<const std::byte*>(segment.address), segment.length});
        }
    } while (count == segments.size());
    return digest.value();
}

}  // namespace mc
