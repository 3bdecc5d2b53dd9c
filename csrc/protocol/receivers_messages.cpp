// SPDX-License-Identifier: Apache-2.0
// The remote side of recvs: what senders say about grants, and when a grant has been delivered.
#include <algorithm>
#include <utility>

#include "protocol/receivers.hpp"

namespace mc {

Receivers::Grant* Receivers::find(SessionId session, GrantId id) {
    const auto found = grants_.find(id);
    // A grant belongs to the session it was made in; nobody else may speak of it, and nobody before
    // it was asked for: its number is easily guessed.
    if (found == grants_.end() || found->second.session != session || !found->second.asked ||
        found->second.closed) {
        return nullptr;
    }
    return &found->second;
}

bool Receivers::receive(Session& session, const Message& message) {
    if (std::holds_alternative<Known>(message)) {
        // The sender has announced the tag. It alone times RECVs for unknown tags.
    } else if (const auto* ready = std::get_if<Ready>(&message)) {
        Grant* grant = find(session.id, ready->grant);
        if (grant == nullptr || ready->epoch != grant->epoch || grant->rewind) return true;
        if (const Status started = start_pull(*grant, *ready); !started) fail(grant->recv, started);
    } else if (const auto* data = std::get_if<Data>(&message)) {
        Grant* grant = find(session.id, data->grant);
        if (grant == nullptr || data->epoch != grant->epoch) return true;
        if (const Status placed = actions_.place(*data); !placed) fail(grant->recv, placed);
    } else if (const auto* digest = std::get_if<SliceDigest>(&message)) {
        Grant* grant = find(session.id, digest->grant);
        if (grant == nullptr || digest->epoch != grant->epoch || grant->rewind) return true;
        if (grant->digests.size() >= kMaxRanges) {
            fail(grant->recv, Status(Code::protocol, "too many DIGESTs"));
        } else {
            grant->digests.push_back(*digest);
        }
    } else if (const auto* done = std::get_if<Done>(&message)) {
        Grant* grant = find(session.id, done->grant);
        if (grant == nullptr || done->epoch != grant->epoch || grant->rewind) return true;
        grant->done = *done;
        check_delivered(*grant);
    } else if (const auto* rewind = std::get_if<Rewind>(&message)) {
        if (Grant* grant = find(session.id, rewind->grant)) receive_rewind(*grant, *rewind);
    } else if (const auto* failed = std::get_if<Fail>(&message)) {
        session.peer_writes.erase(failed->grant);
        // After a CANCEL of ours the answer is CANCELLED, which returns the credit.
        if (Grant* grant = find(session.id, failed->grant)) {
            fail(grant->recv, Status(failed->code, failed->reason), failed->grant);
            return_credit(session, failed->grant);
        }
    } else if (const auto* cancelled = std::get_if<Cancelled>(&message)) {
        session.peer_writes.erase(cancelled->grant);
        return_credit(session, cancelled->grant);
    } else if (const auto* write = std::get_if<Write>(&message)) {
        receive_write(session, *write);
    } else {
        return false;
    }
    return true;
}

void Receivers::receive_write(Session& session, const Write& write) {
    if (session.peer_writes.size() >= options_.recv_credits) {
        sessions_.fail(session, Status(Code::protocol, "the peer exceeded its " +
                                                           std::to_string(options_.recv_credits) +
                                                           " WRITE credits"));
        return;
    }
    const auto total = [](const std::vector<Segment>& segments) {
        std::uint64_t sum = 0;
        for (const Segment& segment : segments) sum += segment.length;
        return sum;
    };
    Status allowed = validate(write.destination);
    if (allowed) allowed = validate(write.source);
    if (allowed && total(write.source) != total(write.destination)) {
        allowed = Status(Code::protocol, "WRITE whose source and destination differ in length");
    }
    if (allowed) allowed = actions_.check_remote(write.destination, true);
    if (!allowed) {
        actions_.send(session.id, WriteRefused{write.write, allowed.code(), allowed.message()});
        return;
    }
    const TransferId id{next_internal_++};
    RecvState& recv = recvs_[id];
    recv.request.id = id;
    recv.list = Slice::from_segments(write.destination);
    recv.write = write.write;
    recv.started = true;
    recv.deadline = actions_.time() + std::chrono::milliseconds(write.remaining_ms);
    actions_.wake_at(recv.deadline);
    recv.senders.push_back({session.address, session.id, false});
    sessions_.set_busy(session, true);
    actions_.open_internal(id, false);
    Grant& grant = add_grant(recv, session.id);
    grant.asked = true;
    session.peer_writes.insert(grant.id);
    grant.list = recv.list;
    grant.list_source = write.source;
    grant.expected = recv.list->bytes();
    open_sink(grant);
    actions_.send(session.id, WriteGrant{write.write, grant.id,
                                         segment_hint(session.id, mean_segment_bytes(*recv.list)),
                                         options_.verify});
}

Status Receivers::start_pull(Grant& grant, const Ready& ready) {
    std::shared_ptr<const Slice> source;
    std::shared_ptr<const Slice> destination;
    if (grant.list) {
        source = Slice::from_segments(grant.list_source);
        destination = grant.list;
    } else {
        if (ready.part >= grant.parts.size())
            return {Code::protocol, "READY for a part that was not asked for"};
        const GrantPart& part = grant.parts[ready.part];
        if (intersect(part.wanted, {&ready.tokens, 1}) != std::vector{ready.tokens})
            return {Code::protocol, "READY for tokens that were not asked for"};
        const Pool& pool = part.pairing->peer;
        PageTable pages(pool.page_size, pool.page_count, pool.null_page, ready.tokens.first);
        MC_RETURN_IF_ERROR(pages.append(ready.pages).with_context("READY"));
        auto from = Slice::make(part.pairing->source, pages, ready.tokens);
        if (!from) return from.status().with_context("READY");
        auto to = Slice::make(part.pairing->destination, *part.pages, ready.tokens);
        if (!to) return to.status();
        source = std::move(*from);
        destination = std::move(*to);
    }
    const std::uint64_t bytes = destination->bytes();
    if (source->bytes() != bytes) return {Code::protocol, "READY whose bytes do not fit the grant"};
    // Also bounds how many reads a peer can make us do.
    if (bytes == 0 || bytes > grant.expected - grant.offered)
        return {Code::protocol, "READY for more bytes than the grant has"};
    grant.offered += bytes;
    ++grant.pulls;
    actions_.pull({grant.session, grant.id, grant.recv, grant.epoch, ready.part, ready.tokens,
                   std::move(source), std::move(destination), ready.guard, ready.expected});
    return {};
}

void Receivers::pulled(GrantId id, std::uint32_t epoch, const Status& outcome,
                       std::uint64_t bytes) {
    const auto found = grants_.find(id);
    if (found == grants_.end()) return;
    Grant& grant = found->second;
    --grant.pulls;
    if (grant.closed) {
        end_if_closed(id);
        return;
    }
    if (outcome.ok() && epoch == grant.epoch) grant.pulled += bytes;
    if (grant.rewind) {
        finish_rewind(grant);
    } else if (outcome.code() == Code::aborted) {
        grant.overtaken =
            true;  // the guard had changed: the sender took its pages back while we read
    } else if (!outcome.ok()) {
        fail(grant.recv, outcome);
    } else {
        check_delivered(grant);
    }
}

void Receivers::lane_ended(SessionId session, GrantId id, std::uint32_t epoch) {
    Grant* grant = find(session, id);
    if (grant == nullptr || epoch != grant->epoch) return;
    ++grant->lanes_ended;
    if (grant->rewind) {
        finish_rewind(*grant);
    } else {
        check_delivered(*grant);
    }
}

void Receivers::receive_rewind(Grant& grant, const Rewind& rewind) {
    if (grant.rewind || rewind.epoch <= grant.epoch) {
        fail(grant.recv, Status(Code::protocol, "REWIND to an epoch that is not new"));
        return;
    }
    grant.rewind = rewind;
    finish_rewind(grant);
}

void Receivers::finish_rewind(Grant& grant) {
    // REWOUND promises that no byte of the old epoch can still be placed: it is the sender's leave
    // to ship again. Lanes that DONE ended are not ended once more by REWIND.
    const std::uint64_t lanes =
        std::uint64_t{grant.rewind->lanes} + (grant.done ? grant.done->lanes : 0);
    if (grant.pulls > 0 || grant.lanes_ended < lanes) return;
    grant.epoch = grant.rewind->epoch;
    grant.rewind.reset();
    grant.done.reset();
    grant.offered = grant.pulled = 0;
    grant.lanes_ended = 0;
    grant.overtaken = false;
    grant.digests.clear();
    grant.verifying = false;
    actions_.rewind_sink(grant.id, grant.epoch);
    actions_.send(grant.session, Rewound{grant.id, grant.epoch});
}

void Receivers::check_delivered(Grant& grant) {
    if (!grant.done || grant.pulls > 0 || grant.lanes_ended < grant.done->lanes) return;
    const std::uint64_t pushed = actions_.placed(grant.id);
    if (grant.overtaken) return;  // REWIND or FAIL is on its way
    if (pushed != grant.done->bytes || pushed + grant.pulled != grant.expected) {
        fail(grant.recv, Status(Code::protocol, "the sender said DONE after " +
                                                    std::to_string(grant.done->bytes) + " bytes; " +
                                                    std::to_string(pushed) + " were placed and " +
                                                    std::to_string(grant.pulled) + " read of " +
                                                    std::to_string(grant.expected) + " expected"));
        return;
    }
    if (!options_.verify || grant.expected == 0) return deliver(grant);
    if (grant.verifying) return;
    grant.verifying = true;
    actions_.verify(grant.id, grant.digests);
}

void Receivers::verified(GrantId id, std::uint32_t epoch, const Status& outcome) {
    const auto found = grants_.find(id);
    if (found == grants_.end() || found->second.closed || !found->second.verifying ||
        epoch != found->second.epoch)
        return;
    if (outcome) {
        deliver(found->second);
    } else {
        fail(found->second.recv, outcome);
    }
}

void Receivers::deliver(Grant& grant) {
    Session* session = sessions_.find(grant.session);
    actions_.send(grant.session, Received{grant.id});
    RecvState& recv = recvs_.at(grant.recv);
    session->peer_writes.erase(grant.id);
    return_credit(*session, grant.id);
    const auto sender =
        std::find_if(recv.senders.begin(), recv.senders.end(), [&](const Sender& candidate) {
            return candidate.session == grant.session && !candidate.ended;
        });
    if (sender != recv.senders.end()) sender->ended = true;
    ++recv.delivered;
    if (recv.delivered == recv.senders.size()) recv.closing = true;  // with the outcome ok
    close_grant(grant);
}

}  // namespace mc
