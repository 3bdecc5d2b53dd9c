// SPDX-License-Identifier: Apache-2.0
// The local side of sends: how they grow and how they end.
#include "protocol/senders.hpp"

#include <algorithm>
#include <utility>

#include "protocol/deadline.hpp"

namespace mc {

namespace {

constexpr std::size_t kRememberedEnds = 4096;  // sends that ended badly, for RECVs that come late

}  // namespace

Senders::Send* Senders::find(TransferId id) {
    const auto found = sends_.find(id);
    return found == sends_.end() || found->second.closing ? nullptr : &found->second;
}

void Senders::touch(Send& send) {
    // Until it is finished a send waits for its owner, who may take as long as he likes.
    if (!send.finished) return;
    send.deadline = deadline_after(actions_.time(), send.patience);
    actions_.wake_at(send.deadline);
}

void Senders::open(TransferId id, std::string tag, Duration patience) {
    Send& send = sends_[id];
    send.id = id;
    send.tag = std::move(tag);
    send.patience = patience;
    touch(send);
    by_tag_[send.tag].push_back(id);
    ended_.erase(send.tag);
    match_parked(send.tag);
}

void Senders::append(TransferId id, const Pool& pool, std::span<const std::int32_t> pages,
                     std::uint32_t first_token) {
    Send* send = find(id);
    if (send == nullptr) return;
    auto part = send->parts.find(pool.name);
    if (part == send->parts.end() || part->second.pages.pages().empty()) {
        Part fresh{PageTable(pool.page_size, pool.page_count, pool.null_page, first_token)};
        part = send->parts.insert_or_assign(pool.name, std::move(fresh)).first;
    }
    if (const Status appended = part->second.pages.append(pages); !appended) {
        abort(id, appended);
        return;
    }
    touch(*send);
    advance_all(*send);
}

void Senders::append_final(TransferId id, const Pool& pool, std::span<const std::int32_t> pages,
                           std::uint32_t first_token) {
    Send* send = find(id);
    if (send == nullptr) return;
    Part part{PageTable(pool.page_size, pool.page_count, pool.null_page, first_token), true};
    if (const Status appended = part.pages.append(pages); !appended) {
        abort(id, appended);
        return;
    }
    send->parts.insert_or_assign(pool.name, std::move(part));
}

void Senders::mark_ready(TransferId id, std::uint32_t tokens) {
    Send* send = find(id);
    if (send == nullptr) return;
    send->ready = std::max(send->ready, tokens);
    touch(*send);
    advance_all(*send);
}

void Senders::rewind(TransferId id, std::uint32_t tokens, std::uint32_t epoch) {
    Send* send = find(id);
    if (send == nullptr) return;
    send->epoch = epoch;
    send->ready = std::min(send->ready, tokens);
    for (auto& [name, part] : send->parts) {
        if (!part.final) part.pages.truncate(tokens);
    }
    touch(*send);
    advance_all(*send);
}

void Senders::finish(TransferId id) {
    Send* send = find(id);
    if (send == nullptr) return;
    send->finished = true;
    touch(*send);
    advance_all(*send);
    if (Send* alive = find(id)) settle(*alive);
}

void Senders::abort(TransferId id, const Status& reason) {
    if (Send* send = find(id)) close(*send, reason);
}

void Senders::write(TransferId id, const std::string& address, std::vector<Segment> source,
                    std::vector<Segment> destination, Duration deadline) {
    Send& send = sends_[id];
    send.id = id;
    send.patience = deadline;
    send.finished = true;
    send.receivers = 1;
    send.address = address;
    send.source = std::move(source);
    send.destination = std::move(destination);
    send.list = Slice::from_segments(send.source);
    touch(send);
    Session& session = sessions_.to(address);
    send.asked = session.id;
    sessions_.set_busy(session, true);
    if (session.state == Session::State::ready) ask_for_grant(send, session);
}

void Senders::ask_for_grant(Send& send, Session& session) {
    if (session.open_writes.size() >= session.peer.recv_credits) {
        session.waiting_writes.push_back(send.id);
        return;
    }
    session.open_writes.insert(send.id);
    actions_.send(session.id, Write{send.id, remaining_ms(send.deadline, actions_.time()),
                                    std::move(send.destination), std::move(send.source)});
}

void Senders::return_write_credit(Session& session, TransferId write) {
    if (session.open_writes.erase(write) == 0 || session.waiting_writes.empty()) return;
    Send& next = sends_.at(session.waiting_writes.front());
    session.waiting_writes.pop_front();
    ask_for_grant(next, session);
}

void Senders::fail_grant(Grant& grant, Send& send, const Status& reason) {
    if (grant.failure.ok()) grant.failure = reason;
    advance(grant, send);
}

void Senders::end_grant(GrantKey key, bool received) {
    const auto found = grants_.find(key);
    if (found == grants_.end()) return;
    const TransferId id = found->second.send;
    const Status failure = found->second.failure;
    grants_.erase(found);
    if (Session* session = sessions_.find(key.session)) {
        session->peer_grants.erase(key.grant);
        return_write_credit(*session, id);
        sessions_.set_busy(*session, false);
    }
    Send& send = sends_.at(id);
    send.grants.erase(key);
    ++send.receivers_ended;
    if (!received && send.outcome.ok()) {
        send.outcome = failure.ok() ? Status(Code::aborted, "the receiver cancelled") : failure;
    }
    settle(send);
}

void Senders::settle(Send& send) {
    if (send.closing) {
        complete_if_closed(send.id);
    } else if (send.finished && send.receivers > 0 && send.receivers_ended >= send.receivers) {
        close(send, send.outcome);
    }
}

void Senders::close(Send& send, const Status& outcome) {
    const TransferId id = send.id;
    send.closing = true;
    send.outcome = outcome;
    if (const auto tagged = by_tag_.find(send.tag); tagged != by_tag_.end()) {
        std::erase(tagged->second, id);
        if (tagged->second.empty()) by_tag_.erase(tagged);
    }
    remember_end(send);
    if (Session* session = send.asked ? sessions_.find(send.asked) : nullptr) {
        // If the WRITE was sent, its answer returns the credit.
        std::erase(session->waiting_writes, id);
        send.asked = {};
        sessions_.set_busy(*session, false);
    }
    actions_.close_source(id);
    const std::vector<GrantKey> keys(send.grants.begin(), send.grants.end());
    for (const GrantKey key : keys) {
        const auto grant = grants_.find(key);
        if (grant == grants_.end()) continue;
        if (grant->second.failure.ok()) {
            grant->second.failure =
                outcome.ok() ? Status(Code::aborted, "the sender closed") : outcome;
        }
        advance(grant->second, send);
    }
}

void Senders::source_closed(TransferId id) {
    if (const auto found = sends_.find(id); found != sends_.end()) {
        found->second.source_is_closed = true;
        complete_if_closed(id);
    }
}

void Senders::complete_if_closed(TransferId id) {
    const auto found = sends_.find(id);
    if (found == sends_.end()) return;
    const Send& send = found->second;
    if (!send.closing || !send.source_is_closed || !send.grants.empty()) return;
    const Status outcome = send.outcome;
    sends_.erase(found);
    actions_.complete(id, outcome);
}

void Senders::remember_end(const Send& send) {
    if (send.outcome.ok() || send.list || by_tag_.contains(send.tag)) return;
    if (!ended_.insert_or_assign(send.tag, send.outcome).second) return;
    ended_order_.push_back(send.tag);
    if (ended_order_.size() > kRememberedEnds) {
        ended_.erase(ended_order_.front());
        ended_order_.pop_front();
    }
}

void Senders::tick(Instant now) {
    std::vector<TransferId> late;
    for (auto& [id, send] : sends_) {
        if (send.closing || !send.finished) continue;
        if (now >= send.deadline) {
            late.push_back(id);
        } else {
            actions_.wake_at(send.deadline);
        }
    }
    for (const TransferId id : late) {
        Send* send = find(id);
        if (send == nullptr) continue;
        const std::string waited = to_text(send->patience);
        close(*send,
              Status(Code::timeout, send->receivers == 0 ? "no receiver came within " + waited
                                                         : "no progress within " + waited));
    }

    std::vector<GrantKey> expired;
    for (auto& [key, grant] : grants_) {
        if (!grant.failure.ok() || grant.cancelled) continue;
        if (now >= grant.deadline) {
            expired.push_back(key);
        } else {
            actions_.wake_at(grant.deadline);
        }
    }
    for (const GrantKey key : expired) {
        const auto found = grants_.find(key);
        if (found == grants_.end()) continue;
        fail_grant(
            found->second, sends_.at(found->second.send),
            Status(Code::timeout, "the receiver's deadline passed before the send was ready"));
    }

    for (auto it = parked_.begin(); it != parked_.end();) {
        if (now < it->expires) {
            actions_.wake_at(it->expires);
            ++it;
            continue;
        }
        const Parked parked = *it;
        it = unpark(it);
        refuse(*sessions_.find(parked.session), parked.recv.grant,
               Status(Code::timeout, "no send with this tag was announced within " +
                                         to_text(parked.expires - parked.since) +
                                         "; the request must reach this sender too, and name the "
                                         "same tag"));
    }
}

}  // namespace mc
