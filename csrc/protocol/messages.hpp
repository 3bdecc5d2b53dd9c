// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <variant>
#include <vector>

#include "core/bytes.hpp"
#include "core/ids.hpp"
#include "core/status.hpp"
#include "layout/match.hpp"
#include "layout/page_table.hpp"
#include "layout/pool.hpp"
#include "layout/slice.hpp"

namespace mc {

// The control messages between two engines. docs/protocol.md says who sends what when; here stand
// the fields. A frame on the wire is: u32 length of what follows, u8 type, u8 flags, body.
// All integers are little-endian; times are remaining milliseconds, never clock readings.

inline constexpr std::uint16_t kProtocolVersion = 1;
inline constexpr std::uint16_t kOldestProtocolVersion = 1;  // understood for rolling upgrades
inline constexpr std::uint32_t kPlanVersion = 1;            // of the canonical orders

inline constexpr std::size_t kMaxFrameBytes = 16U << 20;  // bounds what a peer can make us buffer
// The same for a peer whose handshake is not over: its pools, of which a worker's have hundreds of
// planes of some 40 bytes.
inline constexpr std::size_t kMaxGreetingBytes = 1U << 20;
inline constexpr std::size_t kMaxTagBytes = 256;
inline constexpr std::size_t kMaxNameBytes = 1024;
inline constexpr std::size_t kMaxReasonBytes = 4096;
inline constexpr std::size_t kMaxKeys = 8;
inline constexpr std::size_t kMaxPools = 1024;
inline constexpr std::size_t kMaxParts = 1024;
inline constexpr std::size_t kMaxRanges = 65536;  // of all parts of a message together
inline constexpr std::size_t kMaxPagesPerMessage = 1U << 20;
inline constexpr std::size_t kMaxSegments = 65536;  // of a one-sided list; longer ones are cut

// First on a session between engines that have keys, both ways; see protocol/handshake.hpp.
struct Challenge {
    Token nonce;
    std::vector<Token> keys;  // ids; in the answer the chosen one
};
// That the sender has the key, and said what was heard.
struct Proof {
    std::array<std::uint8_t, 32> mac{};
};
// First on a session without keys, both ways. A message never gets new fields: what a later version
// has to add comes in messages of its own, so that a transcript can be encoded again.
struct Hello {
    std::uint16_t oldest_version = kOldestProtocolVersion;
    std::uint16_t version = kProtocolVersion;
    std::uint32_t plan_version = kPlanVersion;
    InstanceId instance;
    std::string address;  // "host:port" at which this engine accepts sessions
    std::string boot_id;  // of the kernel; equal on one host
    std::string
        same_host_name;         // Unix socket at which a same-host peer can prove itself; "" = none
    Token link_token;           // presented by lanes and same-host links of this session
    std::uint8_t paths = 0xff;  // bit n: the path with number n may be used
    std::uint32_t recv_credits = 0;  // RECVs that the peer may have unanswered at this engine
    std::vector<Pool> pools;
};
// A pool registered after the session began.
struct PoolAdded {
    Pool pool;
};
// How the receiver's pool pairs with the sender's pool of the same name; named by RECV.
struct Plan {
    PlanId id;
    std::string pool;
    Match match;
};
struct RecvPart {
    PlanId plan;
    std::vector<TokenRange> wanted;  // sorted, disjoint
};
// A grant: the receiver wants these tokens of the send with this tag.
struct Recv {
    GrantId grant;
    std::uint64_t request =
        0;  // the same for all receivers (ranks) of one request; pairs equal tags
    std::string tag;
    std::uint32_t receiver_index = 0;
    std::uint32_t receiver_count = 1;
    std::uint32_t remaining_ms = 0;
    std::uint64_t segment_bytes = 0;  // mean contiguous length at the receiver; 0: it cannot pull
    bool verify = false;              // send DIGESTs
    std::vector<RecvPart> parts;      // empty: release
};
// One-sided read: the receiver wants these bytes of the peer's registered memory.
struct Read {
    GrantId grant;
    std::uint32_t remaining_ms = 0;
    std::uint64_t segment_bytes = 0;
    bool verify = false;
    std::vector<Segment> source;
};
// One-sided write, first leg: the peer is asked to grant its registered memory.
struct Write {
    TransferId write;
    std::uint32_t remaining_ms = 0;
    std::vector<Segment> destination;
    std::vector<Segment> source;  // for a peer that can read our memory itself
};
struct WriteGrant {
    TransferId write;
    GrantId grant;
    std::uint64_t segment_bytes = 0;
    bool verify = false;
};
// The sender knows the tag; the data comes when it is ready.
struct Known {
    GrantId grant;
};
// Pull paths: these tokens may be read now from these pages.
struct Ready {
    GrantId grant;
    std::uint32_t epoch = 0;
    std::uint16_t part = 0;
    TokenRange tokens;                // empty for a one-sided list
    std::vector<std::int32_t> pages;  // the pages that hold `tokens`
    std::uint64_t guard = 0;          // address of the guard word in the sender
    std::uint64_t expected = 0;       // its value while the pages are the send's
};
// A few bytes of a slice, too small to be worth another path.
struct Data {
    GrantId grant;
    std::uint32_t epoch = 0;
    std::uint16_t part = 0;
    TokenRange tokens;
    std::uint64_t offset = 0;
    Bytes bytes;
};
// What the bytes of a shipment are, for a receiver that asked (RECV, READ or WRITE_GRANT:
// `verify`); comes before DONE. The digest is that of layout/digest.hpp over the canonical bytes.
struct SliceDigest {
    GrantId grant;
    std::uint32_t epoch = 0;
    std::uint16_t part = 0;
    TokenRange tokens;
    std::uint64_t value = 0;
};
// Everything wanted has been handed over: so many bytes in this epoch, ended in-band on so many
// lanes.
struct Done {
    GrantId grant;
    std::uint32_t epoch = 0;
    std::uint64_t bytes = 0;
    std::uint32_t lanes = 0;
};
// The receiver has everything: the sender may take its pages back.
struct Received {
    GrantId grant;
};
// The sender gives up; no byte of this grant is under way any more.
struct Fail {
    GrantId grant;
    Code code = Code::internal;
    std::string reason;
};
struct WriteRefused {
    TransferId write;
    Code code = Code::internal;
    std::string reason;
};
// The receiver gives up, and the sender's answer when it has stopped.
struct Cancel {
    GrantId grant;
};
struct Cancelled {
    GrantId grant;
};
// The sender's pages were taken back: what was shipped before `epoch` is void. It was ended in-band
// on `lanes` lanes. Nothing of `epoch` is shipped before REWOUND.
struct Rewind {
    GrantId grant;
    std::uint32_t epoch = 0;
    std::uint32_t lanes = 0;
};
struct Rewound {
    GrantId grant;
    std::uint32_t epoch = 0;
};
struct Ping {
    std::uint64_t value = 0;
};
struct Pong {
    std::uint64_t value = 0;
};
// The last message before a deliberate close.
struct Bye {
    Code code = Code::ok;
    std::string reason;
};

// The alternatives' order is the type number on the wire, from 1 on.
using Message = std::variant<Hello, PoolAdded, Plan, Recv, Read, Write, WriteGrant, WriteRefused,
                             Known, Ready, Data, SliceDigest, Done, Received, Fail, Cancel,
                             Cancelled, Rewind, Rewound, Ping, Pong, Bye, Challenge, Proof>;

std::string_view name_of(const Message& message);

// Appends one frame to `out`.
void encode(const Message& message, Bytes& out);

// Reads the frame's type, flags and body (all behind the length). A message of unknown type whose
// `optional` flag is set yields no message; anything malformed yields a protocol error.
Result<std::optional<Message>> decode(std::span<const std::uint8_t> frame);

// Length of the frame at the front of `bytes` without its four length bytes; nothing if fewer than
// four bytes are there; a protocol error beyond kMaxFrameBytes.
Result<std::optional<std::size_t>> frame_length(std::span<const std::uint8_t> bytes);

}  // namespace mc
