// SPDX-License-Identifier: Apache-2.0
// The local side of sends: how they grow, what is shipped when, and how they end.
#include "protocol/senders.hpp"

#include <algorithm>
#include <utility>

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
    send.deadline = actions_.time() + send.patience;
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
    match_parked(send);
}

void Senders::append(TransferId id, const Pool& pool, std::span<const std::int32_t> pages,
                     std::uint32_t first_token) {
    Send* send = find(id);
    if (send == nullptr) return;
    const auto [part, added] = send->parts.try_emplace(
        pool.name, Part{PageTable(pool.page_size, pool.page_count, pool.null_page, first_token)});
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
    const auto left =
        std::chrono::duration_cast<std::chrono::milliseconds>(send.deadline - actions_.time());
    actions_.send(
        session.id,
        Write{send.id, static_cast<std::uint32_t>(std::max<std::int64_t>(left.count(), 0)),
              std::move(send.destination), std::move(send.source)});
}

void Senders::advance_all(Send& send) {
    // Advancing may end a grant and with it the send, so both are looked up anew each time.
    const TransferId id = send.id;
    const std::vector<GrantKey> keys(send.grants.begin(), send.grants.end());
    for (const GrantKey key : keys) {
        const auto grant = grants_.find(key);
        const auto alive = sends_.find(id);
        if (alive == sends_.end()) return;
        if (grant != grants_.end()) advance(grant->second, alive->second);
    }
}

void Senders::advance(Grant& grant, Send& send) {
    if (!grant.failure.ok() || grant.cancelled) {
        if (grant.in_flight > 0)
            return;  // FAIL and CANCELLED say that nothing is under way any more
        if (grant.cancelled) {
            actions_.send(grant.key.session, Cancelled{grant.key.grant});
        } else {
            actions_.send(grant.key.session,
                          Fail{grant.key.grant, grant.failure.code(), grant.failure.message()});
        }
        end_grant(grant.key, false);
        return;
    }
    if (grant.epoch != send.epoch) {
        grant.rewinding = true;
        if (grant.in_flight > 0 || grant.rewind_sent) return;
        const std::uint32_t lanes =
            actions_.end_lanes(grant.key.session, grant.key.grant, grant.epoch);
        actions_.send(grant.key.session, Rewind{grant.key.grant, send.epoch, lanes});
        grant.rewind_sent = true;
        return;
    }
    if (grant.done_sent || !ship_ready(grant, send) || grant.in_flight > 0) return;
    if (!grant.failure.ok()) {
        advance(grant, send);
        return;
    }
    // DONE says that every byte was taken from its page within this epoch, which only the answers
    // to all shipments show.
    const std::uint32_t lanes = actions_.end_lanes(grant.key.session, grant.key.grant, grant.epoch);
    actions_.send(grant.key.session, Done{grant.key.grant, grant.epoch, grant.pushed, lanes});
    grant.done_sent = true;
}

bool Senders::ship_ready(Grant& grant, Send& send) {
    if (send.list) {
        if (!grant.list_shipped) {
            grant.list_shipped = true;
            ++grant.in_flight;
            actions_.ship({grant.key.session,
                           grant.key.grant,
                           send.id,
                           grant.epoch,
                           0,
                           {},
                           send.list,
                           {},
                           grant.segment_bytes,
                           grant.verify});
        }
        return true;
    }
    bool complete = true;
    for (std::uint16_t index = 0; index < grant.parts.size(); ++index) {
        if (const Status shipped = ship_part(grant, send, index); !shipped) {
            grant.failure = shipped;
            return true;
        }
        complete = complete && grant.parts[index].complete;
    }
    return complete;
}

Status Senders::ship_part(Grant& grant, Send& send, std::uint16_t index) {
    OutPart& out = grant.parts[index];
    if (out.complete) return {};
    const auto found = send.parts.find(out.pool);
    if (found == send.parts.end()) {
        if (!send.finished) return {};
        return {Code::invalid_argument,
                "the sender finished without pages of pool \"" + out.pool + "\""};
    }
    const Part& part = found->second;
    const std::uint32_t wanted_end = out.wanted.back().end;
    std::uint32_t limit = wanted_end;
    if (part.final) {
        if (!send.finished) return {};
    } else if (send.ready < wanted_end) {
        if (send.finished) {
            return {Code::invalid_argument,
                    "the sender finished with " + std::to_string(send.ready) +
                        " tokens, the receiver wants " + std::to_string(wanted_end)};
        }
        // Whole pages only, so that chunks of a prefill merge as well as a whole prompt does.
        limit = send.ready - send.ready % part.pages.page_size();
    }
    if (limit <= out.shipped) return {};

    const TokenRange shippable{out.shipped, limit};
    for (const TokenRange range : intersect(out.wanted, {&shippable, 1})) {
        auto slice = Slice::make(out.walk, part.pages, range);
        if (!slice)
            return slice.status().with_context(
                "the sender no longer holds what the receiver wants of pool \"" + out.pool + "\"");
        const std::uint32_t size = part.pages.page_size();
        const std::uint32_t first_page = (range.first - part.pages.tokens().first) / size;
        const std::uint32_t end_page = (range.end - part.pages.tokens().first + size - 1) / size;
        ++grant.in_flight;
        actions_.ship({grant.key.session, grant.key.grant, send.id, grant.epoch, index, range,
                       std::move(*slice),
                       part.pages.pages().subspan(first_page, end_page - first_page),
                       grant.segment_bytes, grant.verify});
    }
    out.shipped = limit;
    out.complete = limit >= wanted_end;
    return {};
}

void Senders::shipped(GrantKey key, std::uint32_t epoch, const Status& outcome,
                      std::uint64_t bytes) {
    const auto found = grants_.find(key);
    if (found == grants_.end()) return;  // its session has ended
    Grant& grant = found->second;
    Send& send = sends_.at(grant.send);
    --grant.in_flight;
    if (outcome.ok() && epoch == grant.epoch) {
        grant.pushed += bytes;
    } else if (!outcome.ok() && epoch == send.epoch && !send.closing && grant.failure.ok()) {
        grant.failure = outcome;  // not a consequence of rewind() or abort(): the path failed
    }
    if (!send.closing) touch(send);
    advance(grant, send);
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
    const bool credited = found->second.credited;
    grants_.erase(found);
    if (Session* session = sessions_.find(key.session)) {
        if (credited) --session->peer_grants_open;
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
    if (Session* session = send.asked ? sessions_.find(send.asked) : nullptr) {
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
    remember_end(send);
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
        const std::string waited = std::to_string(to_seconds(send->patience)) + " s";
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

    while (!parked_.empty() && now >= parked_.front().since + options_.unknown_timeout) {
        const Parked parked = std::move(parked_.front());
        parked_.pop_front();
        if (Session* session = sessions_.find(parked.session)) {
            refuse(*session, parked.recv.grant,
                   Status(Code::timeout, "no send with this tag was announced within " +
                                             std::to_string(to_seconds(options_.unknown_timeout)) +
                                             " s"));
        }
    }
    if (!parked_.empty()) actions_.wake_at(parked_.front().since + options_.unknown_timeout);
}

}  // namespace mc
