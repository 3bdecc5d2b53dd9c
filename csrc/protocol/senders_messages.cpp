// SPDX-License-Identifier: Apache-2.0
// The remote side of sends: receivers' grants and how they find their send.
#include <algorithm>
#include <utility>

#include "protocol/deadline.hpp"
#include "protocol/senders.hpp"

namespace mc {

namespace {

// Bounds what a peer can make this engine keep: plans as long as its session lives (a model of 128
// layers on 8 ranks pairs in 1024), and RECVs for tags that nobody announced.
constexpr std::size_t kMaxPlanPairs = 1U << 18;
constexpr std::size_t kMaxParkedRanges = 1U << 18;

std::size_t count_ranges(const Recv& recv) {
    std::size_t count = 1;
    for (const RecvPart& part : recv.parts) count += 1 + part.wanted.size();
    return count;
}

}  // namespace

void Senders::session_ready(Session& session) {
    for (auto& [id, send] : sends_) {
        if (send.asked == session.id && !send.closing) ask_for_grant(send, session);
    }
}

void Senders::session_closed(Session& session, const Status& reason) {
    std::erase_if(parked_, [&](const Parked& parked) { return parked.session == session.id; });
    std::vector<GrantKey> ended;
    for (auto& [key, grant] : grants_) {
        if (key.session == session.id) ended.push_back(key);
    }
    for (const GrantKey key : ended) {
        if (const auto grant = grants_.find(key);
            grant != grants_.end() && grant->second.failure.ok()) {
            grant->second.failure = reason;
        }
        end_grant(key, false);
    }
    std::vector<TransferId> asking;
    for (auto& [id, send] : sends_) {
        if (send.asked == session.id && !send.closing) asking.push_back(id);
    }
    for (const TransferId id : asking) abort(id, reason);
}

bool Senders::receive(Session& session, const Message& message) {
    if (const auto* recv = std::get_if<Recv>(&message)) {
        receive_recv(session, *recv);
    } else if (const auto* plan = std::get_if<Plan>(&message)) {
        receive_plan(session, *plan);
    } else if (const auto* read = std::get_if<Read>(&message)) {
        receive_read(session, *read);
    } else if (const auto* granted = std::get_if<WriteGrant>(&message)) {
        receive_write_grant(session, *granted);
    } else if (const auto* refused = std::get_if<WriteRefused>(&message)) {
        receive_write_refused(session, *refused);
    } else if (const auto* received = std::get_if<Received>(&message)) {
        const GrantKey key{session.id, received->grant};
        // Only DONE may be answered: else a peer could make us drop pages that others still want.
        if (const auto grant = grants_.find(key);
            grant != grants_.end() && grant->second.done_sent) {
            end_grant(key, true);
        }
    } else if (const auto* cancel = std::get_if<Cancel>(&message)) {
        const GrantKey key{session.id, cancel->grant};
        if (const auto grant = grants_.find(key); grant != grants_.end()) {
            grant->second.cancelled = true;
            advance(grant->second, sends_.at(grant->second.send));
        } else {
            const auto parked =
                std::find_if(parked_.begin(), parked_.end(), [&](const Parked& candidate) {
                    return candidate.session == session.id && candidate.recv.grant == cancel->grant;
                });
            if (parked != parked_.end()) {
                unpark(parked);
                session.peer_grants.erase(cancel->grant);
            }
            actions_.send(session.id, Cancelled{cancel->grant});
        }
    } else if (const auto* rewound = std::get_if<Rewound>(&message)) {
        receive_rewound(session, *rewound);
    } else {
        return false;
    }
    return true;
}

void Senders::receive_rewound(Session& session, const Rewound& rewound) {
    const auto found = grants_.find({session.id, rewound.grant});
    if (found == grants_.end() || !found->second.rewinding_to) return;
    Grant& grant = found->second;
    if (rewound.epoch != *grant.rewinding_to) {
        sessions_.fail(
            session,
            Status(Code::protocol, "REWOUND to epoch " + std::to_string(rewound.epoch) + ", but " +
                                       std::to_string(*grant.rewinding_to) + " was asked for"));
        return;
    }
    grant.epoch = rewound.epoch;
    grant.rewinding_to.reset();
    grant.overtaken = grant.done_sent = grant.list_shipped = false;
    grant.pushed = 0;
    for (OutPart& part : grant.parts) {
        part.shipped = 0;
        part.complete = false;
    }
    advance(grant, sends_.at(grant.send));
}

void Senders::receive_plan(Session& session, const Plan& plan) {
    const Pool* pool = sessions_.own_pool(plan.pool);
    session.peer_plan_pairs += plan.match.pairs.size();
    if (pool == nullptr || !plan.id || session.peer_plans.contains(plan.id) ||
        session.peer_plan_pairs > kMaxPlanPairs) {
        sessions_.fail(session,
                       Status(Code::protocol, "PLAN for pool \"" + plan.pool +
                                                  "\" is unknown, a duplicate, or one too many"));
        return;
    }
    const Status valid = validate(plan.match, *pool, Side::source);
    auto walk = valid ? Walk::make(*pool, plan.match, Side::source) : valid;
    if (!walk) {
        sessions_.fail(session, Status(Code::protocol, "PLAN for pool \"" + plan.pool +
                                                           "\": " + walk.status().message()));
        return;
    }
    session.peer_plans[plan.id] = {plan.pool, std::move(*walk)};
}

void Senders::refuse(Session& session, GrantId grant, const Status& reason) {
    session.peer_grants.erase(grant);
    actions_.send(session.id, Fail{grant, reason.code(), reason.message()});
}

// Whether the peer may open this grant here; closes the session if it may not.
bool Senders::take_credit(Session& session, GrantId grant) {
    if (grants_.contains({session.id, grant}) || session.peer_grants.contains(grant)) {
        sessions_.fail(session, Status(Code::protocol, "RECV or READ repeats a grant"));
        return false;
    }
    if (session.peer_grants.size() >= options_.recv_credits) {
        sessions_.fail(session, Status(Code::protocol, "the peer exceeded its " +
                                                           std::to_string(options_.recv_credits) +
                                                           " RECV credits"));
        return false;
    }
    session.peer_grants.insert(grant);
    return true;
}

void Senders::receive_recv(Session& session, const Recv& recv) {
    if (!take_credit(session, recv.grant)) return;
    const bool unplanned =
        std::any_of(recv.parts.begin(), recv.parts.end(), [&](const RecvPart& part) {
            return !session.peer_plans.contains(part.plan) || part.wanted.empty();
        });
    if (unplanned || recv.request == 0) {
        sessions_.fail(session,
                       Status(Code::protocol, unplanned ? "RECV names an unknown plan or no tokens"
                                                        : "RECV without a request"));
        return;
    }
    if (try_match(session, recv)) return;
    if (const auto ended = ended_.find(recv.tag); ended != ended_.end()) {
        refuse(session, recv.grant, ended->second);
    } else if (session.peer_parked_ranges + count_ranges(recv) > kMaxParkedRanges) {
        refuse(session, recv.grant,
               Status(Code::resource_exhausted, "too much waits for tags that nobody announced"));
    } else {
        park(session, recv);
    }
}

void Senders::park(Session& session, const Recv& recv) {
    session.peer_parked_ranges += count_ranges(recv);
    const Instant now = actions_.time();
    const Instant deadline = now + std::chrono::milliseconds(recv.remaining_ms);
    const Instant expires = std::min(deadline, now + options_.unknown_timeout);
    parked_.push_back({session.id, recv, now, deadline, expires});
    actions_.wake_at(expires);
}

std::deque<Senders::Parked>::iterator Senders::unpark(const std::deque<Parked>::iterator& parked) {
    sessions_.find(parked->session)->peer_parked_ranges -= count_ranges(parked->recv);
    return parked_.erase(parked);
}

bool Senders::try_match(Session& session, const Recv& recv) {
    const auto tagged = by_tag_.find(recv.tag);
    if (tagged == by_tag_.end()) return false;
    // Equal tags pair first come, first served; the ranks of one request stay together.
    for (const TransferId id : tagged->second) {
        Send& send = sends_.at(id);
        const bool same_request = send.request == recv.request &&
                                  send.receivers == recv.receiver_count &&
                                  !send.indices.contains(recv.receiver_index);
        if (send.request == 0 || same_request) {
            attach(session, recv, send);
            return true;
        }
    }
    return false;
}

void Senders::match_parked(const std::string& tag) {
    const Instant now = actions_.time();
    for (auto it = parked_.begin(); it != parked_.end();) {
        it->recv.remaining_ms = remaining_ms(it->deadline, now);
        // A receiver that has given up must not take the send away from one that waits.
        if (it->recv.tag == tag && now < it->expires &&
            try_match(*sessions_.find(it->session), it->recv)) {
            it = unpark(it);
        } else {
            ++it;
        }
    }
}

Senders::Grant& Senders::add_grant(Session& session, GrantId id, Send& send,
                                   std::uint64_t segment_bytes, bool verify,
                                   std::uint32_t milliseconds) {
    const GrantKey key{session.id, id};
    Grant& grant = grants_[key];
    grant.key = key;
    grant.send = send.id;
    grant.segment_bytes = segment_bytes;
    grant.verify = verify;
    grant.epoch = 0;
    grant.deadline = actions_.time() + std::chrono::milliseconds(milliseconds);
    actions_.wake_at(grant.deadline);
    send.grants.insert(key);
    sessions_.set_busy(session, true);
    return grant;
}

void Senders::attach(Session& session, const Recv& recv, Send& send) {
    if (send.request == 0) {
        send.request = recv.request;
        send.receivers = recv.receiver_count;
    }
    send.indices.insert(recv.receiver_index);
    if (send.indices.size() == send.receivers) {
        const auto tagged = by_tag_.find(send.tag);
        std::erase(tagged->second, send.id);
        if (tagged->second.empty()) by_tag_.erase(tagged);
    }
    Grant& grant =
        add_grant(session, recv.grant, send, recv.segment_bytes, recv.verify, recv.remaining_ms);
    std::optional<std::uint32_t> first_token;
    for (const RecvPart& part : recv.parts) {
        const Session::PeerPlan& plan = session.peer_plans.at(part.plan);
        grant.parts.push_back({plan.pool, plan.walk, part.wanted, 0, false});
        const std::uint32_t first = part.wanted.front().first;
        first_token = std::min(first_token.value_or(first), first);
    }
    actions_.matched(send.id, session.id, first_token);
    actions_.send(session.id, Known{recv.grant});
    touch(send);
    advance(grant, send);
}

void Senders::receive_read(Session& session, const Read& read) {
    if (!take_credit(session, read.grant)) return;
    Status allowed = validate(read.source);
    if (allowed) allowed = actions_.check_remote(read.source, false);
    if (!allowed) {
        refuse(session, read.grant, allowed);
        return;
    }
    const TransferId id{next_internal_++};
    Send& send = sends_[id];
    send.id = id;
    send.list = Slice::from_segments(read.source);
    send.finished = true;
    send.receivers = 1;
    send.patience = std::chrono::milliseconds(read.remaining_ms);
    touch(send);
    actions_.open_internal(id, true);
    Grant& grant =
        add_grant(session, read.grant, send, read.segment_bytes, read.verify, read.remaining_ms);
    advance(grant, send);
}

void Senders::receive_write_grant(Session& session, const WriteGrant& granted) {
    if (grants_.contains({session.id, granted.grant}) ||
        session.peer_grants.contains(granted.grant)) {
        sessions_.fail(session, Status(Code::protocol, "WRITE_GRANT repeats a grant"));
        return;
    }
    Send* send = find(granted.write);
    if (send == nullptr || send->asked != session.id ||
        !session.open_writes.contains(granted.write)) {
        actions_.send(session.id, Fail{granted.grant, Code::aborted, "the write has ended"});
        return_write_credit(session, granted.write);
        return;
    }
    send->asked = {};
    sessions_.set_busy(session, false);
    Grant& grant = add_grant(session, granted.grant, *send, granted.segment_bytes, granted.verify,
                             remaining_ms(send->deadline, actions_.time()));
    advance(grant, *send);
}

void Senders::receive_write_refused(Session& session, const WriteRefused& refused) {
    Send* send = find(refused.write);
    if (send != nullptr && send->asked == session.id &&
        session.open_writes.contains(refused.write)) {
        close(*send, Status(refused.code, "the peer refused the write: " + refused.reason));
    }
    return_write_credit(session, refused.write);
}

}  // namespace mc
