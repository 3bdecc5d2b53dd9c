// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "core/clock.hpp"
#include "core/ids.hpp"
#include "core/status.hpp"
#include "layout/page_table.hpp"
#include "layout/slice.hpp"
#include "protocol/messages.hpp"

namespace mc {

struct Session;

// Limits and times of the protocol, the same for all sessions of an engine.
struct ProtocolOptions {
    Duration unknown_timeout = std::chrono::seconds(30);  // a RECV whose tag nobody announced
    Duration ping_interval = std::chrono::milliseconds(500);
    Duration peer_timeout = std::chrono::milliseconds(1800);  // silence after which a peer is lost
    Duration hello_timeout = std::chrono::seconds(5);         // from connecting to being ready
    bool verify = false;                                      // ask senders for digests
    std::vector<Token> keys;            // ids of the keys, the preferred one first
    std::uint32_t recv_credits = 4096;  // RECVs a peer may have open here
};

// Transfers that nobody here asked for (they serve a peer's one-sided request, or release a send)
// have numbers from here on; they complete silently.
inline constexpr std::uint64_t kInternalTransfers = std::uint64_t{1} << 63;
inline bool is_internal(TransferId id) { return id.value >= kInternalTransfers; }

// Part of a send that may go to one receiver now.
struct Shipment {
    SessionId session;
    GrantId grant;
    TransferId send;
    std::uint32_t epoch = 0;
    std::uint16_t part = 0;
    TokenRange tokens;  // empty for a one-sided list
    std::shared_ptr<const Slice> source;
    std::span<const std::int32_t> pages;  // that hold `tokens`; valid during the call
    std::uint64_t segment_bytes = 0;  // mean contiguous length at the receiver; 0: it cannot pull
    bool verify = false;              // the receiver wants a DIGEST before it is answered
};

// One part of a grant at its receiver.
struct SinkPart {
    std::shared_ptr<const Walk> walk;  // null for a one-sided list
    std::shared_ptr<const PageTable> pages;
    std::vector<TokenRange> wanted;
    std::shared_ptr<const Slice> list;  // one-sided: the destination
};

struct PullOrder {
    SessionId session;
    GrantId grant;
    TransferId recv;
    std::uint32_t epoch = 0;
    std::uint16_t part = 0;
    TokenRange tokens;
    std::shared_ptr<const Slice> source;
    std::shared_ptr<const Slice> destination;
    std::uint64_t guard = 0;
    std::uint64_t expected = 0;
};

// A proof to be made, or one to be checked. See protocol/handshake.hpp.
struct AuthenticationRequest {
    Token key;        // id
    Bytes statement;  // what the proof is about
    std::optional<Proof> proof;
};

// What the protocol asks of its surroundings. The protocol has no sockets, no threads and no clock:
// the engine does these things, or a simulator pretends to. Calls never re-enter the protocol;
// answers come later as events.
class Actions {
  public:
    virtual ~Actions() = default;

    virtual Instant time() = 0;
    // The protocol wants tick() at or before this time.
    virtual void wake_at(Instant when) = 0;

    // Answered by session_connected or session_closed.
    virtual void connect(SessionId session, const std::string& address) = 0;
    virtual void send(SessionId session, const Message& message) = 0;
    virtual void close(SessionId session, const Status& reason) = 0;
    // Answered by Exchange::authenticated with the proof, or with the failure
    // (authentication_failed when the one to be checked is wrong).
    virtual void authenticate(SessionId session, AuthenticationRequest request) = 0;
    // The greetings are exchanged: data paths to the peer may be set up now. For an outgoing
    // session this is answered by Sessions::linked once they are, before any RECV is sent.
    virtual void link(const Session& session) = 0;
    // Whether pages of that peer can be read from here (pull paths), or have to be pushed.
    virtual bool can_pull(SessionId session) = 0;

    // Sender. Ship the bytes (and, if asked for, their digest) by whatever path fits; answered by
    // shipped(grant) once the pages are not read any more for it (or, on pull paths, once READY is
    // sent).
    virtual void ship(const Shipment& shipment) = 0;
    // End the transfer in-band on each lane that was used in this epoch; returns how many.
    virtual std::uint32_t end_lanes(SessionId session, GrantId grant, std::uint32_t epoch) = 0;
    // Let nobody read the send's pages any more; answered by source_closed when nobody does.
    virtual void close_source(TransferId send) = 0;
    // A receiver came for a send; for its owner to see.
    virtual void matched(TransferId send, SessionId session,
                         std::optional<std::uint32_t> first_token) = 0;

    // Receiver. From now on bytes may be placed for the grant, beginning with epoch 0.
    virtual void open_sink(SessionId session, GrantId grant, TransferId recv,
                           std::vector<SinkPart> parts) = 0;
    virtual Status place(const Data& data) = 0;       // at once
    virtual std::uint64_t placed(GrantId grant) = 0;  // bytes pushed in its epoch so far
    virtual void rewind_sink(GrantId grant,
                             std::uint32_t epoch) = 0;  // drop what belongs to older epochs
    virtual void pull(const PullOrder& order) = 0;      // answered by pulled
    // Compare what lies in the grant's pages with these digests; answered by verified.
    virtual void verify(GrantId grant, std::vector<SliceDigest> digests) = 0;
    // Place nothing any more; answered by sink_closed when nobody does.
    virtual void close_sink(GrantId grant) = 0;

    // Registered memory that a peer may touch: whether all segments lie in memory registered for
    // it.
    virtual Status check_remote(std::span<const Segment> segments, bool write) = 0;
    // The protocol itself begins this transfer; it is nobody's but will complete.
    virtual void open_internal(TransferId transfer, bool sends) = 0;
    // The transfer has ended; its pages are free. Exactly once for each.
    virtual void complete(TransferId transfer, const Status& outcome) = 0;
};

}  // namespace mc
