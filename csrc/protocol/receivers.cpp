// SPDX-License-Identifier: Apache-2.0
// The local side of recvs: how grants are made and how they end.
#include "protocol/receivers.hpp"

#include <algorithm>
#include <utility>

#include "protocol/deadline.hpp"

namespace mc {

namespace {

// Two tokens that want to lie in one page would overwrite each other.
Status check_pages(const RecvRequest& request) {
    std::unordered_map<std::string, std::vector<bool>> granted;
    for (const RecvPages& part : request.parts) {
        std::vector<bool>& seen = granted[part.pool];
        seen.resize(part.pages->page_count());
        for (const std::int32_t page : part.pages->pages()) {
            if (part.pages->is_null(page)) continue;
            if (seen[static_cast<std::size_t>(page)]) {
                return {Code::invalid_argument, "the recv names page " + std::to_string(page) +
                                                    " of pool \"" + part.pool + "\" twice"};
            }
            seen[static_cast<std::size_t>(page)] = true;
        }
    }
    return {};
}

// A peer refuses longer lists, and its session with them: better that one recv fails here.
Status check_limits(const RecvRequest& request) {
    std::size_t ranges = 0;
    for (const RecvPages& part : request.parts) ranges += part.wanted.size();
    if (request.parts.size() > kMaxParts || ranges > kMaxRanges) {
        return {Code::invalid_argument,
                "a recv of " + std::to_string(request.parts.size()) + " parts with " +
                    std::to_string(ranges) + " ranges of tokens is too scattered: at most " +
                    std::to_string(kMaxParts) + " parts with " + std::to_string(kMaxRanges) +
                    " ranges can be asked for at once"};
    }
    return {};
}

}  // namespace

void Receivers::open(RecvRequest request) {
    const TransferId id = request.id;
    RecvState& recv = recvs_[id];
    recv.request = std::move(request);
    recv.deadline = deadline_after(actions_.time(), recv.request.deadline);
    actions_.wake_at(recv.deadline);
    for (const std::string& address : recv.request.senders) {
        Session& session = sessions_.to(address);
        sessions_.set_busy(session, true);
        recv.senders.push_back({address, session.id, false});
    }
    Status checked = check_limits(recv.request);
    if (checked) checked = check_pages(recv.request);
    if (!checked) {
        fail(id, checked);
    } else {
        start_if_ready(id);
    }
}

void Receivers::read(TransferId id, const std::string& address, std::vector<Segment> source,
                     std::vector<Segment> destination, Duration deadline) {
    RecvState& recv = recvs_[id];
    recv.request.id = id;
    recv.request.senders = {address};
    recv.list = Slice::from_segments(std::move(destination));
    recv.source = std::move(source);
    recv.deadline = deadline_after(actions_.time(), deadline);
    actions_.wake_at(recv.deadline);
    Session& session = sessions_.to(address);
    sessions_.set_busy(session, true);
    recv.senders.push_back({address, session.id, false});
    start_if_ready(id);
}

void Receivers::cancel(TransferId id, const Status& reason) { fail(id, reason); }

void Receivers::session_ready(Session& session) {
    std::vector<TransferId> waiting;
    for (const auto& [id, recv] : recvs_) {
        if (recv.started || recv.closing) continue;
        const bool concerned =
            std::any_of(recv.senders.begin(), recv.senders.end(),
                        [&](const Sender& sender) { return sender.session == session.id; });
        if (concerned) waiting.push_back(id);
    }
    std::sort(waiting.begin(), waiting.end());  // in the order of the calls
    for (const TransferId id : waiting) start_if_ready(id);
}

void Receivers::session_closed(Session& session, const Status& reason) {
    std::erase_if(plans_, [&](const auto& entry) {
        return std::any_of(entry.second.begin(), entry.second.end(),
                           [&](const CachedPlan& plan) { return plan.session == session.id; });
    });
    std::vector<TransferId> hit;
    for (auto& [id, recv] : recvs_) {
        for (Sender& sender : recv.senders) {
            if (sender.session != session.id) continue;
            sender.session = {};
            if (!sender.ended) hit.push_back(id);
        }
    }
    for (const TransferId id : hit) fail(id, reason);
}

void Receivers::start_if_ready(TransferId id) {
    RecvState& recv = recvs_.at(id);
    for (const Sender& sender : recv.senders) {
        const Session* session = sessions_.find(sender.session);
        if (session == nullptr || session->state != Session::State::ready) return;
    }
    if (const Status started = start(recv); !started) fail(id, started);
}

Receivers::Grant& Receivers::add_grant(RecvState& recv, SessionId session) {
    const GrantId id{next_grant_++};
    Grant& grant = grants_[id];
    grant.id = id;
    grant.recv = recv.request.id;
    grant.session = session;
    recv.grants.push_back(id);
    return grant;
}

std::uint64_t Receivers::segment_hint(SessionId session, std::uint64_t mean) {
    return actions_.can_pull(session) ? std::max<std::uint64_t>(mean, 1) : 0;
}

void Receivers::open_sink(const Grant& grant) {
    std::vector<SinkPart> parts;
    parts.reserve(grant.parts.size() + 1);
    for (const GrantPart& part : grant.parts)
        parts.push_back({part.pairing->destination, part.pages, part.wanted, nullptr});
    if (grant.list) parts.push_back({nullptr, nullptr, {}, grant.list});
    actions_.open_sink(grant.session, grant.id, grant.recv, std::move(parts));
}

// How the senders' pools of this name pair with ours; worked out and announced once for each set of
// senders.
Result<const std::vector<Receivers::CachedPlan>*> Receivers::plans_for(const RecvState& recv,
                                                                       const std::string& name) {
    std::string key = name + '\0' + std::to_string(recv.request.receiver_index);
    for (const Sender& sender : recv.senders) key += ',' + std::to_string(sender.session.value);
    if (const auto cached = plans_.find(key); cached != plans_.end()) return &cached->second;

    const Pool* own = sessions_.own_pool(name);
    if (own == nullptr)
        return Status(Code::invalid_argument, "pool \"" + name + "\" is not registered");
    std::vector<const Pool*> sources;
    for (const Sender& sender : recv.senders) {
        const Pool* pool = sessions_.find(sender.session)->pool(name);
        if (pool == nullptr) {
            return Status(Code::layout_mismatch,
                          "the engine at " + sender.address + " has no pool \"" + name + "\"");
        }
        sources.push_back(pool);
    }
    auto matches = match_pools(sources, *own, recv.request.receiver_index);
    if (!matches) return matches.status();
    std::vector<CachedPlan> plans;
    for (std::size_t i = 0; i < sources.size(); ++i) {
        auto plan = announce_plan(recv.senders[i].session, *own, *sources[i], (*matches)[i]);
        if (!plan) return plan.status().with_context("pool \"" + name + "\"");
        plans.push_back(std::move(*plan));
    }
    return &(plans_[key] = std::move(plans));
}

Result<Receivers::CachedPlan> Receivers::announce_plan(SessionId id, const Pool& own,
                                                       const Pool& peers, const Match& match) {
    if (match.pairs.empty()) return CachedPlan{id, {}, nullptr};
    auto destination = Walk::make(own, match, Side::destination);
    if (!destination) return destination.status();
    auto source = Walk::make(peers, match, Side::source);
    if (!source) return source.status();
    Session& session = *sessions_.find(id);
    const PlanId plan{session.next_plan++};
    actions_.send(id, Plan{plan, own.name, match});
    return CachedPlan{id, plan,
                      std::make_shared<const Pairing>(Pairing{
                          peers, match.token_bytes, std::move(*source), std::move(*destination)})};
}

Status Receivers::start(RecvState& recv) {
    recv.started = true;
    if (recv.list) {
        Grant& grant = add_grant(recv, recv.senders[0].session);
        grant.list = recv.list;
        grant.list_source = std::move(recv.source);
        grant.expected = recv.list->bytes();
        open_sink(grant);
        ask(*sessions_.find(grant.session),
            Read{grant.id, remaining_ms(recv.deadline, actions_.time()),
                 segment_hint(grant.session, mean_segment_bytes(*recv.list)), options_.verify,
                 grant.list_source});
        return {};
    }
    std::vector<const std::vector<CachedPlan>*> plans;
    for (const RecvPages& part : recv.request.parts) {
        auto found = plans_for(recv, part.pool);
        if (!found) return found.status();
        plans.push_back(*found);
    }
    for (std::size_t i = 0; i < recv.senders.size(); ++i) {
        Grant& grant = add_grant(recv, recv.senders[i].session);
        Recv message{grant.id,
                     recv.request.request,
                     recv.request.tag,
                     recv.request.receiver_index,
                     recv.request.receiver_count,
                     remaining_ms(recv.deadline, actions_.time()),
                     UINT64_MAX,
                     options_.verify,
                     {}};
        for (std::size_t p = 0; p < plans.size(); ++p) {
            const CachedPlan& plan = (*plans[p])[i];
            const RecvPages& part = recv.request.parts[p];
            if (plan.pairing == nullptr || part.wanted.empty()) continue;
            const Pairing& pairing = *plan.pairing;
            grant.parts.push_back({plan.pairing, part.pages, part.wanted});
            grant.expected += pairing.token_bytes * count_tokens(part.wanted);
            message.segment_bytes =
                std::min(message.segment_bytes, pairing.destination->scattered_segment_bytes());
            message.parts.push_back({plan.id, part.wanted});
        }
        message.segment_bytes = segment_hint(grant.session, message.segment_bytes);
        open_sink(grant);
        ask(*sessions_.find(grant.session), std::move(message));
    }
    return {};
}

namespace {

GrantId grant_of(const Message& recv_or_read) {
    const auto* recv = std::get_if<Recv>(&recv_or_read);
    return recv != nullptr ? recv->grant : std::get<Read>(recv_or_read).grant;
}

void set_remaining(Message& recv_or_read, std::uint32_t milliseconds) {
    if (auto* recv = std::get_if<Recv>(&recv_or_read)) {
        recv->remaining_ms = milliseconds;
    } else {
        std::get<Read>(recv_or_read).remaining_ms = milliseconds;
    }
}

}  // namespace

void Receivers::ask(Session& session, Message recv_or_read) {
    if (session.open_grants.size() < session.peer.recv_credits) {
        const GrantId grant = grant_of(recv_or_read);
        session.open_grants.insert(grant);
        grants_.at(grant).asked = true;
        actions_.send(session.id, recv_or_read);
    } else {
        session.waiting_grants.push_back(std::move(recv_or_read));
    }
}

void Receivers::return_credit(Session& session, GrantId grant) {
    if (session.open_grants.erase(grant) == 0 || session.waiting_grants.empty()) return;
    Message next = std::move(session.waiting_grants.front());
    session.waiting_grants.pop_front();
    const RecvState& recv = recvs_.at(grants_.at(grant_of(next)).recv);
    set_remaining(next, remaining_ms(recv.deadline, actions_.time()));
    ask(session, std::move(next));
}

void Receivers::fail(TransferId id, const Status& reason, GrantId failed_by_sender) {
    const auto found = recvs_.find(id);
    if (found == recvs_.end() || found->second.closing) return;
    RecvState& recv = found->second;
    recv.closing = true;
    recv.outcome = reason;
    std::vector<SessionId> asked;
    const std::vector<GrantId> open = recv.grants;
    for (const GrantId grant_id : open) {
        Grant& grant = grants_.at(grant_id);
        if (grant.asked) asked.push_back(grant.session);
        Session* session = sessions_.find(grant.session);
        if (session != nullptr && !grant.closed) {
            const auto never_asked = std::erase_if(
                session->waiting_grants,
                [&](const Message& waiting) { return grant_of(waiting) == grant_id; });
            if (never_asked == 0 && failed_by_sender != grant_id)
                actions_.send(session->id, Cancel{grant_id});
        }
        close_grant(grant);
    }
    for (const Sender& sender : recv.senders) {
        if (!sender.ended && std::find(asked.begin(), asked.end(), sender.session) == asked.end())
            release(recv, sender);
    }
    complete_if_closed(id);
}

void Receivers::release(const RecvState& recv, const Sender& sender) {
    if (recv.request.parts.empty() || sessions_.find(sender.session) == nullptr) return;
    RecvRequest empty;
    empty.id = TransferId{next_internal_++};
    empty.tag = recv.request.tag;
    empty.request = recv.request.request;
    empty.receiver_index = recv.request.receiver_index;
    empty.receiver_count = recv.request.receiver_count;
    empty.senders = {sender.address};
    empty.deadline = options_.unknown_timeout;
    actions_.open_internal(empty.id, false);
    open(std::move(empty));
}

void Receivers::close_grant(Grant& grant) {
    if (grant.closed) return;
    grant.closed = true;
    actions_.close_sink(grant.id);
}

void Receivers::sink_closed(GrantId id) {
    const auto found = grants_.find(id);
    if (found == grants_.end() || !found->second.closed) return;
    found->second.sink_is_closed = true;
    end_if_closed(id);
}

void Receivers::end_if_closed(GrantId id) {
    const auto found = grants_.find(id);
    if (!found->second.sink_is_closed || found->second.pulls > 0) return;
    const TransferId recv = found->second.recv;
    std::erase(recvs_.at(recv).grants, id);
    grants_.erase(found);
    complete_if_closed(recv);
}

void Receivers::complete_if_closed(TransferId id) {
    const auto found = recvs_.find(id);
    if (found == recvs_.end()) return;
    RecvState& recv = found->second;
    if (!recv.closing || !recv.grants.empty()) return;
    for (const Sender& sender : recv.senders) {
        Session* session = sessions_.find(sender.session);
        if (session == nullptr) continue;
        sessions_.set_busy(*session, false);
    }
    const Status outcome = recv.outcome;
    recvs_.erase(found);
    actions_.complete(id, outcome);
}

void Receivers::tick(Instant now) {
    std::vector<TransferId> late;
    for (const auto& [id, recv] : recvs_) {
        if (recv.closing) continue;
        if (now >= recv.deadline) {
            late.push_back(id);
        } else {
            actions_.wake_at(recv.deadline);
        }
    }
    for (const TransferId id : late)
        fail(id, Status(Code::timeout, "the deadline passed before everything had arrived"));
}

}  // namespace mc
