// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sys/types.h>

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <type_traits>
#include <vector>

#include "core/ids.hpp"
#include "core/status.hpp"
#include "transport/event_loop.hpp"
#include "transport/samehost/link.hpp"

namespace mc::samehost {

// The two messages of the handshake. Both ends run on one machine, so these travel as they lie in
// memory; a build with another idea of them has another magic.
inline constexpr std::uint64_t kMagic = 0x6d63'6c69'6e6b'0001;

struct Proof {
    std::uint64_t address = 0;  // in the memory of who sends it, of...
    Token nonce;                // ...these bytes
};
struct Request {
    std::uint64_t magic = kMagic;
    Token token;
    Proof proof;
};
enum class Verdict : std::uint64_t { welcome = 0, token_unknown = 1, rings_refused = 2 };
struct Reply {
    std::uint64_t magic = kMagic;
    Verdict verdict = Verdict::welcome;
    Proof proof;
};
static_assert(std::is_trivially_copyable_v<Request> && std::is_trivially_copyable_v<Reply>);

// Descriptors that travel with the request: the rings, the server's and the client's eventfd.
inline constexpr std::size_t kDescriptors = 3;

Status send_with_descriptors(int socket, std::span<const std::uint8_t> bytes,
                             std::span<const int> descriptors);
// Takes whole messages only; `protocol` when what came is not one, `peer_lost` at the end.
Status receive_with_descriptors(int socket, std::span<std::uint8_t> bytes,
                                std::vector<FileDescriptor>& descriptors);

// Who is at the other end, and whether its memory can be read: fills peer_pid, pidfd, cma_readable
// and cma_reason.
void identify_peer(SameHostLink& link, const Proof& proof);

// The socket address of a name; fails when the name is too long for one.
struct Address {
    std::array<std::uint8_t, 112> storage{};
    std::uint32_t length = 0;
};
Result<Address> socket_address(const std::string& name);

}  // namespace mc::samehost
