// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <unordered_map>
#include <vector>

#include "protocol/actions.hpp"
#include "protocol/sessions.hpp"

namespace mc {

// A receiver's grant is known by the receiver's number for it, within the receiver's session.
struct GrantKey {
    SessionId session;
    GrantId grant;

    auto operator<=>(const GrantKey&) const = default;
};

// The sending half of the protocol: sends grow, receivers' grants find them by tag, and what is
// both ready and wanted is shipped.
class Senders {
  public:
    Senders(Actions& actions, const ProtocolOptions& options, Sessions& sessions)
        : actions_(actions), options_(options), sessions_(sessions) {}

    // Local calls. Arguments were checked by the facade; a call for a send that has ended is
    // ignored.
    void open(TransferId id, std::string tag, Duration patience);
    void append(TransferId id, const Pool& pool, std::span<const std::int32_t> pages,
                std::uint32_t first_token);
    void mark_ready(TransferId id, std::uint32_t tokens);
    void rewind(TransferId id, std::uint32_t tokens, std::uint32_t epoch);
    // A part that is shipped only at the end (sliding window, aux, state), then the end itself.
    void append_final(TransferId id, const Pool& pool, std::span<const std::int32_t> pages,
                      std::uint32_t first_token);
    void finish(TransferId id);
    void abort(TransferId id, const Status& reason);
    // One-sided write: asks the peer for a grant of `destination` and ships `source` into it.
    void write(TransferId id, const std::string& address, std::vector<Segment> source,
               std::vector<Segment> destination, Duration deadline);

    // Events.
    void session_ready(Session& session);
    void session_closed(Session& session, const Status& reason);
    bool receive(Session& session, const Message& message);  // false: not a sender's message
    // A shipment's pages are no longer read; `bytes` of it were pushed (none on a pull path).
    void shipped(GrantKey key, std::uint32_t epoch, const Status& outcome, std::uint64_t bytes);
    void source_closed(TransferId id);
    void tick(Instant now);

    [[nodiscard]] std::size_t size() const { return sends_.size(); }
    [[nodiscard]] std::size_t grants() const { return grants_.size(); }
    [[nodiscard]] std::size_t parked() const { return parked_.size(); }
    [[nodiscard]] std::size_t tags() const { return by_tag_.size(); }  // that can be matched

  private:
    struct Part {
        PageTable pages;
        bool final = false;  // shipped only at the end
    };
    struct Send {
        TransferId id;
        std::string tag;
        std::shared_ptr<const Slice> list;  // one-sided: the source
        std::map<std::string, Part> parts;  // by pool
        std::uint32_t epoch = 0;
        std::uint32_t ready = 0;  // tokens
        bool finished = false;
        Duration patience{};  // without any progress
        Instant deadline;
        std::set<GrantKey> grants;    // matched and not ended
        std::uint64_t request = 0;    // of the receivers; 0: none came yet
        std::uint32_t receivers = 0;  // that have to end
        std::uint32_t receivers_ended = 0;
        std::set<std::uint32_t> indices;  // receivers that came
        bool closing = false;
        bool source_is_closed = false;
        Status outcome;
        // One-sided write, while the grant is awaited.
        SessionId asked;
        std::vector<Segment> destination, source;
        std::string address;
    };
    struct OutPart {
        std::string pool;
        std::shared_ptr<const Walk> walk;
        std::vector<TokenRange> wanted;
        std::uint32_t shipped = 0;  // tokens before this one are on their way
        bool complete = false;
    };
    struct Grant {
        GrantKey key;
        TransferId send;
        std::uint64_t segment_bytes = 0;
        std::vector<OutPart> parts;
        std::uint32_t epoch = 0;                    // under which things are shipped now
        std::uint32_t in_flight = 0;                // shipments not yet answered
        std::uint64_t pushed = 0;                   // bytes in this epoch
        std::optional<std::uint32_t> rewinding_to;  // REWIND was sent, REWOUND has to come
        bool overtaken = false;  // a shipment was void: the pages were taken back meanwhile
        bool list_shipped = false;
        bool done_sent = false;
        bool cancelled = false;  // by the receiver
        bool verify = false;     // the receiver wants digests
        Status failure;          // FAIL is to be sent once nothing is in flight
        Instant deadline;
    };
    struct Parked {
        SessionId session;
        Recv recv;
        Instant since;
        Instant deadline;  // of the receiver: it runs while the RECV waits here
        Instant expires;   // then, or earlier because the tag stays unknown
    };

    Send* find(TransferId id);
    void touch(Send& send);
    void match_parked(const std::string& tag);
    bool try_match(Session& session, const Recv& recv);
    void attach(Session& session, const Recv& recv, Send& send);
    Grant& add_grant(Session& session, GrantId id, Send& send, std::uint64_t segment_bytes,
                     bool verify, std::uint32_t milliseconds);
    bool take_credit(Session& session, GrantId grant);
    void receive_recv(Session& session, const Recv& recv);
    void receive_rewound(Session& session, const Rewound& rewound);
    void receive_plan(Session& session, const Plan& plan);
    void receive_read(Session& session, const Read& read);
    void receive_write_grant(Session& session, const WriteGrant& granted);
    void receive_write_refused(Session& session, const WriteRefused& refused);
    void refuse(Session& session, GrantId grant, const Status& reason);
    void ask_for_grant(Send& send, Session& session);  // when there is credit for it
    void return_write_credit(Session& session, TransferId write);
    void park(Session& session, const Recv& recv);
    std::deque<Parked>::iterator unpark(const std::deque<Parked>::iterator& parked);

    void advance_all(Send& send);
    void advance(Grant& grant, Send& send);
    bool ship_ready(Grant& grant, Send& send);  // true: all that is wanted has been shipped
    Status ship_part(Grant& grant, Send& send, std::uint16_t index);
    Status ship_tokens(Grant& grant, const Send& send, std::uint16_t index, const PageTable& pages,
                       TokenRange tokens);
    void fail_grant(Grant& grant, Send& send, const Status& reason);
    void end_grant(GrantKey key, bool received);
    void settle(Send& send);  // closes the send if all its receivers have ended
    void close(Send& send, const Status& outcome);
    void complete_if_closed(TransferId id);
    void remember_end(const Send& send);

    Actions& actions_;
    const ProtocolOptions& options_;
    Sessions& sessions_;
    std::unordered_map<TransferId, Send> sends_;
    std::map<GrantKey, Grant> grants_;
    std::unordered_map<std::string, std::deque<TransferId>> by_tag_;  // that can still be matched
    std::deque<Parked> parked_;  // RECVs whose tag is unknown, oldest first
    // Why sends ended badly, for RECVs that come late; and the tags, oldest first.
    std::unordered_map<std::string, Status> ended_;
    std::deque<std::string> ended_order_;
    std::uint64_t next_internal_ = kInternalTransfers;  // ids of peers' one-sided reads
};

}  // namespace mc
