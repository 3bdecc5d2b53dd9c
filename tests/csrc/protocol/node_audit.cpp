// SPDX-License-Identifier: Apache-2.0
// What has to hold in a node after every event.
#include <gtest/gtest.h>

#include <algorithm>

#include "protocol/node.hpp"

namespace mc::simulation {

void Node::audit() {
    if (frozen_) return;
    audit_transfers();
    audit_sessions();
}

void Node::audit_transfers() {
    const Senders& senders = exchange_->senders();
    const Receivers& receivers = exchange_->receivers();
    EXPECT_EQ(senders.size() + receivers.size(), open_.size())
        << address << " keeps transfers that have ended, or lost some that have not";
    EXPECT_LE(senders.tags(), senders.size()) << address << " keeps tags of sends that have ended";
    for (const auto& [id, source] : sources_)
        EXPECT_TRUE(open_.contains(id)) << address << ": pages may be read after their send ended";
    EXPECT_GE(receivers.grants(), sinks_.size()) << address << " forgot a grant that is open";
    for (const auto& [id, sink] : sinks_) {
        EXPECT_TRUE(open_.contains(sink.recv))
            << address << ": pages may be written after they were handed back";
    }
    EXPECT_EQ(senders.grants() + senders.parked(), ledger_.outgoing())
        << address << " disagrees with its messages about which grants have ended";

    for (const auto& [id, expected] : expected_) {
        EXPECT_GE(std::max(expected.by, awake_since_) + options.slack, network.now())
            << address << ": transfer " << id.value << " got no answer in time";
    }
    const auto overdue = ledger_.overdue(network.now(), options.slack, awake_since_);
    EXPECT_FALSE(overdue) << address << ": grant " << overdue->grant.value << " of session "
                          << overdue->session.value << " outlives its deadline";
}

void Node::audit_sessions() {
    const auto& sessions = exchange_->sessions().all();
    const ProtocolOptions& limits = options.protocol;
    std::map<std::string, InstanceId> instances;
    for (const auto& [id, session] : sessions) {
        const auto found = links_.find(id);
        if (found == links_.end()) continue;  // not connected yet
        Link& link = found->second;
        const std::string where = address + ", session " + std::to_string(id.value);
        EXPECT_EQ(session.peer_grants.size(), ledger_.outgoing_on_credit(id))
            << where << ": the peer's credits do not add up";
        EXPECT_EQ(session.open_grants.size(), ledger_.incoming_on_credit(id))
            << where << ": credits at the peer do not add up";
        for (const auto& [grant, lanes] : link.used_lanes) {
            EXPECT_TRUE(ledger_.is_outgoing({id, grant}))
                << where << ": lanes remember grant " << grant.value << ", which has ended";
        }
        if (session.state >= Session::State::linking) {
            const auto& known =
                instances.try_emplace(session.peer.address, session.peer.instance).first->second;
            EXPECT_EQ(known, session.peer.instance)
                << where << ": " << session.peer.address << " was restarted, its grants live on";
        }
        if (session.state != Session::State::ready || !session.expectant()) {
            link.quiet_since = network.now();
        } else {
            const Duration silence =
                network.now() - std::max(link.quiet_since, awake_since_) - options.slack;
            EXPECT_LE(silence, limits.peer_timeout + 2 * limits.ping_interval)
                << where << ": a silent peer is not declared lost";
        }
    }
    for (const auto& [grant, sink] : sinks_) {
        const auto session = sessions.find(sink.session);
        const bool waits = session != sessions.end() && !session->second.waiting_grants.empty();
        EXPECT_TRUE(sink.told || waits || ledger_.is_incoming({sink.session, grant}))
            << address << ": grant " << grant.value << " has ended, its buffer is kept open";
    }
}

}  // namespace mc::simulation
