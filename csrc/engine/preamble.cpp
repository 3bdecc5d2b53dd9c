// SPDX-License-Identifier: Apache-2.0
#include "engine/preamble.hpp"

#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>

#include "core/bytes.hpp"

namespace mc {

namespace {

constexpr std::uint32_t kPreambleMagic = 0x56'4b'43'4d;  // "MCKV" as bytes on the wire
constexpr std::uint16_t kVersion = 1;  // of this preamble, not of the protocol behind it

}  // namespace

void encode(const Preamble& preamble, std::span<std::uint8_t, Preamble::kBytes> out) {
    Bytes bytes;
    ByteWriter writer(bytes);
    writer.put(kPreambleMagic);
    writer.put(kVersion);
    writer.put(preamble.kind);
    writer.put(std::uint8_t{0});
    writer.put(preamble.token);
    std::copy(bytes.begin(), bytes.end(), out.begin());
}

Result<Preamble> decode_preamble(std::span<const std::uint8_t, Preamble::kBytes> in) {
    ByteReader reader(in);
    const auto magic = reader.get<std::uint32_t>();
    const auto version = reader.get<std::uint16_t>();
    const auto kind = reader.get<std::uint8_t>();
    (void)reader.get<std::uint8_t>();
    if (magic != kPreambleMagic)
        return Status(Code::protocol, "a connection that does not speak this protocol");
    if (version != kVersion) {
        return Status(Code::unsupported,
                      "a connection with preamble version " + std::to_string(version));
    }
    if (kind != static_cast<std::uint8_t>(Preamble::Kind::control) &&
        kind != static_cast<std::uint8_t>(Preamble::Kind::lane)) {
        return Status(Code::protocol, "a connection of unknown kind " + std::to_string(kind));
    }
    return Preamble{static_cast<Preamble::Kind>(kind), reader.get_token()};
}

Status send_preamble(int socket, const Preamble& preamble) {
    std::array<std::uint8_t, Preamble::kBytes> bytes{};
    encode(preamble, bytes);
    const ssize_t sent = ::send(socket, bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (sent == static_cast<ssize_t>(bytes.size())) return {};
    return sent < 0 ? errno_status("sending the preamble", errno)
                    : Status(Code::peer_lost, "the preamble was not taken");
}

}  // namespace mc
