// SPDX-License-Identifier: Apache-2.0
#include "protocol/ledger.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <variant>

namespace mc::simulation {

namespace {

std::string name(GrantKey key) {
    return "grant " + std::to_string(key.grant.value) + " of session " +
           std::to_string(key.session.value);
}

template <typename Grants>
std::size_t count_on_credit(const Grants& grants, SessionId session) {
    return static_cast<std::size_t>(std::count_if(
        grants.begin(), grants.end(),
        [&](const auto& entry) { return entry.first.session == session && entry.second.credit; }));
}

}  // namespace

void Ledger::says(SessionId session, const Message& message) {
    std::visit([&](const auto& known) { said(session, known); }, message);
}

void Ledger::hears(SessionId session, const Message& message, Instant now, Instant parked_until) {
    std::visit([&](const auto& known) { heard(session, known, now, parked_until); }, message);
}

void Ledger::forget(SessionId session) {
    const auto of_session = [&](const auto& entry) { return entry.first.session == session; };
    std::erase_if(outgoing_, of_session);
    std::erase_if(incoming_, of_session);
    std::erase_if(cancelling_, of_session);
    std::erase_if(asked_to_cancel_, [&](GrantKey key) { return key.session == session; });
}

std::size_t Ledger::outgoing_on_credit(SessionId session) const {
    return count_on_credit(outgoing_, session);
}

std::size_t Ledger::incoming_on_credit(SessionId session) const {
    return count_on_credit(incoming_, session) + count_on_credit(cancelling_, session);
}

std::optional<GrantKey> Ledger::overdue(Instant now, Duration slack, Instant awake) const {
    for (const auto& [key, grant] : outgoing_) {
        if (grant.in_flight == 0 && std::max(grant.due, awake) < now - slack) return key;
    }
    return std::nullopt;
}

// --- At the sender ----------------------------------------------------------------------------

Ledger::Outgoing* Ledger::find_outgoing(GrantKey key, const std::string& word) {
    const auto found = outgoing_.find(key);
    if (found != outgoing_.end()) return &found->second;
    ADD_FAILURE() << owner_ << " says " << word << " of " << name(key) << ", which has ended";
    return nullptr;
}

void Ledger::end_outgoing(GrantKey key, const std::string& word) {
    const Outgoing* grant = find_outgoing(key, word);
    if (grant == nullptr) return;
    EXPECT_EQ(grant->in_flight, 0U) << owner_ << " says " << word << " of " << name(key)
                                    << " while its pages may still be written";
    outgoing_.erase(key);
}

void Ledger::still_ships(SessionId session, GrantId id, const std::string& word) {
    const Outgoing* grant = find_outgoing({session, id}, word);
    if (grant == nullptr) return;
    EXPECT_FALSE(grant->done) << owner_ << " says " << word << " after DONE";
    EXPECT_FALSE(grant->rewinding) << owner_ << " says " << word << " before REWOUND";
}

void Ledger::ships(GrantKey key, TransferId send) {
    still_ships(key.session, key.grant, "a shipment");
    const auto found = outgoing_.find(key);
    if (found == outgoing_.end()) return;
    ++found->second.in_flight;
    const std::uint64_t request = found->second.request;
    EXPECT_EQ(served_.try_emplace(send, request).first->second, request)
        << owner_ << " ships send " << send.value << " to receivers of two requests";
}

void Ledger::shipped(GrantKey key) {
    // A session may end with shipments under way.
    if (const auto found = outgoing_.find(key); found != outgoing_.end()) --found->second.in_flight;
}

void Ledger::said(SessionId session, const Known& known) {
    if (Outgoing* grant = find_outgoing({session, known.grant}, "KNOWN"))
        grant->due = grant->deadline;
}

void Ledger::said(SessionId session, const Done& done) {
    still_ships(session, done.grant, "DONE");
    if (Outgoing* grant = find_outgoing({session, done.grant}, "DONE")) {
        EXPECT_EQ(grant->in_flight, 0U) << owner_ << " says DONE before the last span";
        grant->done = true;
    }
}

void Ledger::said(SessionId session, const Rewind& rewind) {
    Outgoing* grant = find_outgoing({session, rewind.grant}, "REWIND");
    if (grant == nullptr) return;
    EXPECT_FALSE(grant->rewinding) << owner_ << " says REWIND before REWOUND";
    EXPECT_EQ(grant->in_flight, 0U) << owner_ << " says REWIND while old bytes are under way";
    grant->rewinding = true;
}

void Ledger::said(SessionId session, const Fail& fail) {
    end_outgoing({session, fail.grant}, "FAIL");
}

void Ledger::said(SessionId session, const Cancelled& cancelled) {
    const GrantKey key{session, cancelled.grant};
    EXPECT_EQ(asked_to_cancel_.erase(key), 1U) << owner_ << " says CANCELLED unasked";
    // Else the grant had ended before CANCEL came.
    if (outgoing_.contains(key)) end_outgoing(key, "CANCELLED");
}

void Ledger::heard(SessionId session, const Recv& recv, Instant now, Instant parked_until) {
    const Instant deadline = now + std::chrono::milliseconds(recv.remaining_ms);
    outgoing_.try_emplace({session, recv.grant},
                          Outgoing{true, std::min(parked_until, deadline), deadline, recv.request});
}

void Ledger::heard(SessionId session, const Read& read, Instant now, Instant) {
    const Instant deadline = now + std::chrono::milliseconds(read.remaining_ms);
    outgoing_.try_emplace({session, read.grant}, Outgoing{true, deadline, deadline});
}

void Ledger::heard(SessionId session, const WriteGrant& granted, Instant, Instant) {
    // The write itself has a deadline.
    outgoing_.try_emplace({session, granted.grant}, Outgoing{false, Instant::max(), {}});
}

void Ledger::heard(SessionId session, const Received& received, Instant, Instant) {
    const auto found = outgoing_.find({session, received.grant});
    if (found != outgoing_.end() && found->second.done) outgoing_.erase(found);
}

void Ledger::heard(SessionId session, const Rewound& rewound, Instant, Instant) {
    const auto found = outgoing_.find({session, rewound.grant});
    if (found != outgoing_.end() && found->second.rewinding)
        found->second.rewinding = found->second.done = false;
}

void Ledger::heard(SessionId session, const Cancel& cancel, Instant, Instant) {
    asked_to_cancel_.insert({session, cancel.grant});
}

// --- At the receiver --------------------------------------------------------------------------

void Ledger::grants(SessionId session, GrantId grant, bool credit) {
    EXPECT_TRUE(incoming_.try_emplace({session, grant}, Incoming{credit}).second)
        << owner_ << " asks twice for " << name({session, grant});
}

void Ledger::end_incoming(GrantKey key, const std::string& word) {
    EXPECT_EQ(incoming_.erase(key), 1U)
        << owner_ << " says " << word << " of " << name(key) << ", which has ended";
}

void Ledger::said(SessionId session, const Rewound& rewound) {
    const GrantKey key{session, rewound.grant};
    EXPECT_TRUE(incoming_.contains(key))
        << owner_ << " says REWOUND of " << name(key) << ", which has ended";
}

void Ledger::said(SessionId session, const Received& received) {
    end_incoming({session, received.grant}, "RECEIVED");
}

void Ledger::said(SessionId session, const Cancel& cancel) {
    const GrantKey key{session, cancel.grant};
    if (const auto found = incoming_.find(key); found != incoming_.end())
        cancelling_.insert(*found);
    end_incoming(key, "CANCEL");
}

void Ledger::heard(SessionId session, const Fail& fail, Instant, Instant) {
    incoming_.erase({session, fail.grant});
}

void Ledger::heard(SessionId session, const Cancelled& cancelled, Instant, Instant) {
    cancelling_.erase({session, cancelled.grant});
}

}  // namespace mc::simulation
