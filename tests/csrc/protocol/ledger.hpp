// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <map>
#include <optional>
#include <set>
#include <string>

#include "core/clock.hpp"
#include "protocol/messages.hpp"
#include "protocol/senders.hpp"

namespace mc::simulation {

// The books of one node: what it says and hears of each grant, and so how far the grant has come.
// They are kept from the messages alone, apart from the code under test, and fail the test at the
// first word that a node may not say: anything about a grant that has ended, FAIL, CANCELLED, DONE
// or REWIND while a shipment is under way, DONE or RECEIVED twice, shipments between REWIND and
// REWOUND, a CANCELLED that nobody asked for, one send for receivers of two requests.
class Ledger {
  public:
    explicit Ledger(std::string owner) : owner_(std::move(owner)) {}

    void says(SessionId session, const Message& message);
    // `parked_until` is when a RECV has to be refused if its tag stays unknown.
    void hears(SessionId session, const Message& message, Instant now, Instant parked_until);
    void ships(GrantKey key, TransferId send);
    void shipped(GrantKey key);
    // Ends all grants of the session.
    void forget(SessionId session);

    // Grants that peers gave to this node and that have not ended, and those of one session that
    // hold one of its credits.
    [[nodiscard]] std::size_t outgoing() const { return outgoing_.size(); }
    [[nodiscard]] std::size_t outgoing_on_credit(SessionId session) const;
    [[nodiscard]] bool is_outgoing(GrantKey key) const { return outgoing_.contains(key); }
    // Grants that this node gave to a peer: whether one has not ended, and how many of a session
    // hold a credit at the peer; they do until the answer to CANCEL.
    [[nodiscard]] bool is_incoming(GrantKey key) const { return incoming_.contains(key); }
    [[nodiscard]] std::size_t incoming_on_credit(SessionId session) const;
    // A grant that should have ended before `now`, although nothing is under way for it.
    [[nodiscard]] std::optional<GrantKey> overdue(Instant now, Duration slack, Instant awake) const;

  private:
    // At the sender.
    struct Outgoing {
        bool credit = false;  // RECV and READ take one, WRITE_GRANT answers a WRITE
        Instant due;          // to end
        Instant deadline;     // of the receiver, which counts once the tag is known
        std::uint64_t request = 0;
        unsigned in_flight = 0;
        bool done = false;
        bool rewinding = false;
    };
    // At the receiver.
    struct Incoming {
        bool credit = false;
    };

    // What is said and heard of each kind; most kinds say nothing of a grant's state.
    template <typename M>
    void said(SessionId, const M&) {}
    void said(SessionId session, const Known& known);
    void said(SessionId session, const Ready& ready) { still_ships(session, ready.grant, "READY"); }
    void said(SessionId session, const Data& data) { still_ships(session, data.grant, "DATA"); }
    void said(SessionId session, const SliceDigest& digest) {
        still_ships(session, digest.grant, "DIGEST");
    }
    void said(SessionId session, const Done& done);
    void said(SessionId session, const Rewind& rewind);
    void said(SessionId session, const Fail& fail);
    void said(SessionId session, const Cancelled& cancelled);
    void said(SessionId session, const Recv& recv) { grants(session, recv.grant, true); }
    void said(SessionId session, const Read& read) { grants(session, read.grant, true); }
    void said(SessionId session, const WriteGrant& granted) {
        grants(session, granted.grant, false);
    }
    void said(SessionId session, const Rewound& rewound);
    void said(SessionId session, const Received& received);
    void said(SessionId session, const Cancel& cancel);

    template <typename M>
    void heard(SessionId, const M&, Instant, Instant) {}
    void heard(SessionId session, const Recv& recv, Instant now, Instant parked_until);
    void heard(SessionId session, const Read& read, Instant now, Instant);
    void heard(SessionId session, const WriteGrant& granted, Instant, Instant);
    void heard(SessionId session, const Received& received, Instant, Instant);
    void heard(SessionId session, const Rewound& rewound, Instant, Instant);
    void heard(SessionId session, const Cancel& cancel, Instant, Instant);
    void heard(SessionId session, const Fail& fail, Instant, Instant);
    void heard(SessionId session, const Cancelled& cancelled, Instant, Instant);

    void grants(SessionId session, GrantId grant, bool credit);
    void still_ships(SessionId session, GrantId id, const std::string& word);
    // Null, and a failure of the test, if the grant has ended.
    Outgoing* find_outgoing(GrantKey key, const std::string& word);
    void end_outgoing(GrantKey key, const std::string& word);
    void end_incoming(GrantKey key, const std::string& word);

    const std::string owner_;
    std::map<GrantKey, Outgoing> outgoing_;
    std::map<TransferId, std::uint64_t> served_;  // the request that a send was shipped to
    std::set<GrantKey> asked_to_cancel_;          // CANCEL was heard and is not answered
    std::map<GrantKey, Incoming> incoming_;
    std::map<GrantKey, Incoming> cancelling_;  // CANCEL was said and is not answered
};

}  // namespace mc::simulation
