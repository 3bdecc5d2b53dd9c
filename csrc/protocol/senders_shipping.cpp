// SPDX-License-Identifier: Apache-2.0
// What of a send is shipped when, and what is said about it.
#include <algorithm>
#include <utility>

#include "protocol/senders.hpp"

namespace mc {

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
        // The receiver counts no ends any more, but the lanes may forget the grant.
        (void)actions_.end_lanes(grant.key.session, grant.key.grant, grant.epoch);
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
        if (grant.in_flight > 0 || grant.rewinding_to) return;
        const std::uint32_t lanes =
            actions_.end_lanes(grant.key.session, grant.key.grant, grant.epoch);
        actions_.send(grant.key.session, Rewind{grant.key.grant, send.epoch, lanes});
        grant.rewinding_to = send.epoch;
        return;
    }
    if (grant.done_sent || grant.overtaken) return;
    if (!ship_ready(grant, send) || grant.in_flight > 0) return;
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
    for (std::size_t index = 0; index < grant.parts.size(); ++index) {
        const Status shipped = ship_part(grant, send, static_cast<std::uint16_t>(index));
        if (!shipped) {
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
    const std::uint32_t size = part.pages.page_size();
    const std::uint32_t wanted_end = out.wanted.back().end;
    std::uint32_t limit = wanted_end;
    if (part.final) {
        if (!send.finished) return {};
    } else if (send.finished) {
        if (send.ready < wanted_end) {
            return {Code::invalid_argument,
                    "the sender finished with " + std::to_string(send.ready) +
                        " tokens, the receiver wants " + std::to_string(wanted_end)};
        }
    } else {
        // Tokens of one pool may be ready before the pages of another are appended.
        limit = std::min(limit, part.pages.tokens().end);
        // Whole pages only, so that chunks of a prefill merge as well as a whole prompt does.
        if (send.ready < limit) limit = send.ready - send.ready % size;
    }
    if (limit <= out.shipped) return {};

    const TokenRange shippable{out.shipped, limit};
    for (TokenRange range : intersect(out.wanted, {&shippable, 1})) {
        while (!range.empty()) {
            const std::uint64_t most = std::uint64_t{kMaxPagesPerMessage} * size;
            const TokenRange tokens{range.first,
                                    static_cast<std::uint32_t>(std::min<std::uint64_t>(
                                        range.end, range.first - range.first % size + most))};
            MC_RETURN_IF_ERROR(ship_tokens(grant, send, index, part.pages, tokens));
            range.first = tokens.end;
        }
    }
    out.shipped = limit;
    out.complete = limit >= wanted_end;
    return {};
}

Status Senders::ship_tokens(Grant& grant, const Send& send, std::uint16_t index,
                            const PageTable& pages, TokenRange tokens) {
    const OutPart& out = grant.parts[index];
    auto slice = Slice::make(out.walk, pages, tokens);
    if (!slice) {
        return slice.status().with_context(
            "the sender no longer holds what the receiver wants of pool \"" + out.pool + "\"");
    }
    const std::uint32_t size = pages.page_size();
    const std::uint32_t first_page = (tokens.first - pages.tokens().first) / size;
    const std::uint32_t end_page = (tokens.end - pages.tokens().first + size - 1) / size;
    ++grant.in_flight;
    actions_.ship({grant.key.session, grant.key.grant, send.id, grant.epoch, index, tokens,
                   std::move(*slice), pages.pages().subspan(first_page, end_page - first_page),
                   grant.segment_bytes, grant.verify});
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
    } else if (outcome.code() == Code::aborted) {
        // The pages were taken back under it. The caller's rewind() or abort() is on its way, if it
        // is not here already: pages are void from the call on, in whichever thread it was made.
        grant.overtaken = true;
    } else if (!outcome.ok() && epoch == send.epoch && !send.closing && grant.failure.ok()) {
        grant.failure = outcome;  // the path failed
    }
    if (!send.closing) touch(send);
    advance(grant, send);
}

}  // namespace mc
