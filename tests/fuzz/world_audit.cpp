// SPDX-License-Identifier: Apache-2.0
// What has to hold at all times, and at the end.
#include <gtest/gtest.h>

#include "world.hpp"

namespace mc::fuzz {

void World::audit() {
    const Senders& senders = exchange_->senders();
    const Receivers& receivers = exchange_->receivers();
    EXPECT_EQ(senders.size() + receivers.size(), transfers_.size())
        << "a transfer that ended is kept, or one that did not is lost";
    EXPECT_LE(senders.tags(), senders.size()) << "tags of sends that have ended are kept";
    EXPECT_GE(receivers.grants(), sinks_.size()) << "a grant that is open was forgotten";

    const ProtocolOptions& limits = options_.protocol;
    for (const auto& [id, session] : exchange_->sessions().all()) {
        EXPECT_LE(session.peer_grants.size(), limits.recv_credits);
        EXPECT_LE(session.peer_writes.size(), limits.recv_credits);
        EXPECT_LE(session.open_grants.size(), session.peer.recv_credits);
        EXPECT_LE(session.held.size(), 64U) << "messages of a peer that has proved nothing";
        EXPECT_LE(session.peer.pools.size(), kMaxPools);
        if (!options_.keeps_books || !peers_.contains(id)) continue;
        EXPECT_EQ(session.peer_grants.size(), ledger_.outgoing_on_credit(id))
            << "the peer's credits do not add up";
    }
    if (!options_.keeps_books) return;
    EXPECT_EQ(senders.grants() + senders.parked(), ledger_.outgoing())
        << "the messages say otherwise about which grants have ended";
    const auto overdue = ledger_.overdue(now_, Duration::zero(), {});
    EXPECT_FALSE(overdue) << "grant " << overdue->grant.value << " outlives its deadline";
}

void World::wind_down() {
    const Status reason(Code::aborted, "the engine was closed");
    for (const SessionId session : dialling()) dialled(session, false);
    exchange_->sessions().close_all(reason);
    for (const TransferId id : open()) {
        exchange_->senders().abort(id, reason);
        exchange_->receivers().cancel(id, reason);
    }
    while (owed() > 0) answer(0, Verdict::done);
    for (const TransferId id : open()) ADD_FAILURE() << "transfer " << id.value << " got no answer";
    EXPECT_EQ(exchange_->senders().size() + exchange_->senders().grants() +
                  exchange_->senders().parked() + exchange_->senders().tags(),
              0U);
    EXPECT_EQ(exchange_->receivers().size() + exchange_->receivers().grants(), 0U);
    EXPECT_TRUE(sinks_.empty());
    EXPECT_TRUE(peers_.empty());
    for (const auto& [name, pages] : pages_) pages.check_free();
}

}  // namespace mc::fuzz
