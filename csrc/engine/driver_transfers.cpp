// SPDX-License-Identifier: Apache-2.0
// Shipments, sinks and the ends of transfers.
#include <algorithm>
#include <array>
#include <cstring>
#include <utility>

#include "engine/driver.hpp"
#include "layout/digest.hpp"

namespace mc {

namespace {

// A shipment that is cut over several paths ends when its last piece does. Control thread only.
struct Pieces {
    std::size_t left = 0;
    std::uint64_t bytes = 0;
    Status outcome;
};

}  // namespace

void Driver::add_transfer(std::shared_ptr<Transfer> added) {
    transfers_[added->id] = std::move(added);
}

std::shared_ptr<Transfer> Driver::transfer(TransferId id) {
    const auto found = transfers_.find(id);
    return found == transfers_.end() ? nullptr : found->second;
}

std::shared_ptr<GrantSink> Driver::sink(GrantId grant) {
    const auto found = sinks_.find(grant);
    return found == sinks_.end() ? nullptr : found->second.sink;
}

void Driver::ship(const Shipment& shipment) {
    if (shipment.verify) {
        ship_after_digest(shipment);
    } else {
        ship_now(shipment);
    }
}

void Driver::ship_after_digest(const Shipment& shipment) {
    auto entry = std::make_shared<Waiting>(
        Waiting{shipment, {shipment.pages.begin(), shipment.pages.end()}});
    entry->shipment.pages = entry->pages;
    const std::shared_ptr<Transfer> sent = transfer(shipment.send);
    auto loop = copy_.next();
    if (sent == nullptr || !loop) {
        return answer_shipped(
            shipment, sent == nullptr ? Status(Code::aborted, "the send has ended") : loop.status(),
            0);
    }
    (*loop)->post([this, entry, sent] {
        const Shipment& ready = entry->shipment;
        std::optional<std::uint64_t> value;
        if (const HoldVisit visit(*sent->source.hold(), ready.epoch); visit) {
            value = digest(Cursor(ready.source, 0, ready.source->bytes()));
        }
        control_.post([this, entry, value] {
            const Shipment& digested = entry->shipment;
            if (!value)
                return answer_shipped(digested, Status(Code::aborted, "the pages were taken back"),
                                      0);
            send(digested.session, SliceDigest{digested.grant, digested.epoch, digested.part,
                                               digested.tokens, *value});
            ship_now(digested);
        });
    });
}

void Driver::ship_now(const Shipment& shipment) {
    Peer* peer = find(shipment.session);
    if (peer == nullptr) return;  // the exchange is about to hear that the session has ended
    if (peer->waiting.empty() && try_ship(*peer, shipment)) return;
    peer->waiting.push_back({shipment, {shipment.pages.begin(), shipment.pages.end()}});
}

bool Driver::try_ship(Peer& peer, const Shipment& shipment) {
    const std::shared_ptr<Transfer> sent = transfer(shipment.send);
    if (sent == nullptr) {
        answer_shipped(shipment, Status(Code::aborted, "the send has ended"), 0);
        return true;
    }
    const std::uint64_t mean =
        std::min(mean_segment_bytes(*shipment.source), shipment.segment_bytes);
    const Links::Route route =
        peer.links->route(shipment.source->bytes(), mean, shipment.segment_bytes > 0);
    if (route != Links::Route::wait) log_path(peer);
    switch (route) {
        case Links::Route::wait: return false;
        case Links::Route::pull: send_ready(peer, shipment, *sent); return true;
        case Links::Route::inline_data: send_inline(peer, shipment, sent); return true;
        case Links::Route::push: push(peer, shipment, sent); return true;
    }
    return false;
}

void Driver::answer_shipped(const Shipment& shipment, const Status& outcome, std::uint64_t bytes) {
    control_.post([this, key = GrantKey{shipment.session, shipment.grant}, epoch = shipment.epoch,
                   outcome, bytes] { exchange_->senders().shipped(key, epoch, outcome, bytes); });
}

void Driver::send_ready(Peer& peer, const Shipment& shipment, Transfer& sent) {
    const Guard& guard = sent.source.guard();
    peer.channel->send(Ready{shipment.grant,
                             shipment.epoch,
                             shipment.part,
                             shipment.tokens,
                             {shipment.pages.begin(), shipment.pages.end()},
                             guard.address(),
                             guard.expected(shipment.epoch)});
    sent.count(peer.links->pull_kind(), {shipment.source->bytes(), 0});
    peer.bytes[static_cast<std::size_t>(peer.links->pull_kind())] += shipment.source->bytes();
    answer_shipped(shipment, {}, 0);
}

void Driver::send_inline(Peer& peer, const Shipment& shipment,
                         const std::shared_ptr<Transfer>& sent) {
    Data data{shipment.grant, shipment.epoch, shipment.part, shipment.tokens, 0, {}};
    std::uint64_t spans = 0;
    {
        const HoldVisit visit(*sent->source.hold(), shipment.epoch);
        if (!visit)
            return answer_shipped(shipment, Status(Code::aborted, "the pages were taken back"), 0);
        data.bytes.reserve(shipment.source->bytes());
        Cursor cursor(shipment.source, 0, shipment.source->bytes());
        std::array<Segment, 64> segments;
        for (std::size_t count = segments.size(); count == segments.size();) {
            count = cursor.next(segments);
            for (std::size_t i = 0; i < count; ++i) {
                const auto* from = reinterpret_cast<const std::uint8_t*>(segments[i].address);
                data.bytes.insert(data.bytes.end(), from, from + segments[i].length);
            }
            spans += count;
        }
    }
    const std::uint64_t bytes = data.bytes.size();
    if (!sent->source.hold()->current(shipment.epoch))
        return answer_shipped(shipment, Status(Code::aborted, "the pages were taken back"), 0);
    const PathKind kind = peer.links->inline_kind();
    sent->count(kind, {bytes, spans});
    peer.bytes[static_cast<std::size_t>(kind)] += bytes;
    peer.channel->send(data);
    answer_shipped(shipment, {}, bytes);
}

void Driver::push(Peer& peer, const Shipment& shipment, const std::shared_ptr<Transfer>& sent) {
    const std::uint64_t bytes = shipment.source->bytes();
    const std::vector<PathHandle> paths = peer.links->push_paths(bytes);
    auto pieces = std::make_shared<Pieces>();
    pieces->left = paths.size();
    // Equal shares, but for the last; zero-byte shipments still make one (empty) job.
    const std::uint64_t share = (bytes + paths.size() - 1) / paths.size();
    std::vector<PathHandle>& used = peer.used[shipment.grant];
    std::uint64_t offset = 0;
    for (const PathHandle& path : paths) {
        const std::uint64_t length = std::min(share, bytes - offset);
        if (std::find(used.begin(), used.end(), path) == used.end()) used.push_back(path);
        Piece piece{shipment.grant,          shipment.epoch, shipment.part, shipment.tokens.first,
                    shipment.tokens.count(), offset,         length};
        offset += length;
        peer.bytes[static_cast<std::size_t>(path.kind())] += length;
        path.push({piece, shipment.source, sent->source.hold(),
                   [this, pieces, sent, kind = path.kind(),
                    key = GrantKey{shipment.session, shipment.grant},
                    epoch = shipment.epoch](const Status& outcome, Moved moved) {
                       if (outcome) sent->count(kind, moved);
                       control_.post([this, pieces, key, epoch, outcome, moved] {
                           exchange_->sessions().heard(key.session);
                           if (outcome) {
                               pieces->bytes += moved.bytes;
                           } else if (pieces->outcome.ok()) {
                               pieces->outcome = outcome;
                           }
                           if (--pieces->left == 0)
                               exchange_->senders().shipped(key, epoch, pieces->outcome,
                                                            pieces->bytes);
                       });
                   }});
    }
}

std::uint32_t Driver::end_lanes(SessionId session, GrantId grant, std::uint32_t epoch) {
    Peer* peer = find(session);
    const auto used = peer == nullptr ? decltype(peer->used)::iterator{} : peer->used.find(grant);
    if (peer == nullptr || used == peer->used.end()) return 0;
    for (const PathHandle& path : used->second) path.end(grant, epoch);
    const auto count = static_cast<std::uint32_t>(used->second.size());
    peer->used.erase(used);
    return count;
}

void Driver::close_source(TransferId send) {
    const std::shared_ptr<Transfer> sent = transfer(send);
    if (sent == nullptr) return;
    sent->source.close([this, send] {
        control_.post([this, send] { exchange_->senders().source_closed(send); });
    });
}

void Driver::matched(TransferId send, SessionId session, std::optional<std::uint32_t> first_token) {
    const std::shared_ptr<Transfer> sent = transfer(send);
    const Peer* peer = find(session);
    if (sent != nullptr && peer != nullptr)
        completions_.add_match(*sent, peer->address, first_token);
}

void Driver::open_sink(SessionId session, GrantId grant, TransferId recv,
                       std::vector<SinkPart> parts) {
    Peer* peer = find(session);
    const std::shared_ptr<Transfer> received = transfer(recv);
    if (peer == nullptr || received == nullptr) return;
    auto opened = std::make_shared<GrantSink>(received, std::move(parts));
    if (const auto kind = peer->links->push_kind()) opened->set_path(*kind);
    peer->sinks->add(grant, opened);
    sinks_[grant] = {session, std::move(opened)};
}

Status Driver::place(const Data& data) {
    const std::shared_ptr<GrantSink> target = sink(data.grant);
    return target == nullptr ? Status() : target->place(data);
}

std::uint64_t Driver::placed(GrantId grant) {
    const std::shared_ptr<GrantSink> target = sink(grant);
    return target == nullptr ? 0 : target->placed_bytes();
}

void Driver::rewind_sink(GrantId grant, std::uint32_t epoch) {
    if (const std::shared_ptr<GrantSink> target = sink(grant)) target->rewind(epoch);
}

void Driver::pull(const PullOrder& order) {
    Peer* peer = find(order.session);
    const std::shared_ptr<GrantSink> target = sink(order.grant);
    const PathHandle path =
        peer == nullptr ? PathHandle() : peer->links->pull_path(order.source->bytes());
    if (target == nullptr || !path) {
        const Status reason(Code::unsupported,
                            "the sender offers pages to read, but no path here can read them");
        control_.post([this, order, reason] {
            exchange_->receivers().pulled(order.grant, order.epoch, reason, 0);
        });
        return;
    }
    const std::uint64_t bytes = order.source->bytes();
    peer->bytes[static_cast<std::size_t>(path.kind())] += bytes;
    const Piece piece{order.grant,          order.epoch, order.part, order.tokens.first,
                      order.tokens.count(), 0,           bytes};
    path.pull({piece, order.source, order.destination, target->shared_hold(), order.guard,
               order.expected,
               [this, order, target, kind = path.kind()](const Status& outcome, Moved moved) {
                   if (outcome) target->transfer()->count(kind, moved);
                   control_.post([this, session = order.session, grant = order.grant,
                                  epoch = order.epoch, outcome, moved] {
                       exchange_->sessions().heard(session);
                       exchange_->receivers().pulled(grant, epoch, outcome, moved.bytes);
                   });
               }});
}

void Driver::verify(GrantId grant, std::vector<SliceDigest> digests) {
    const std::shared_ptr<GrantSink> target = sink(grant);
    auto loop = copy_.next();
    if (target == nullptr || !loop) return;  // it is being closed; or the deadline will end it
    (*loop)->post([this, grant, target, digests = std::move(digests)] {
        const std::uint32_t epoch = target->epoch();
        const Status outcome = target->verify(digests);
        control_.post([this, grant, epoch, outcome] {
            exchange_->receivers().verified(grant, epoch, outcome);
        });
    });
}

void Driver::close_sink(GrantId grant) {
    const auto found = sinks_.find(grant);
    const auto closed = [this, grant] {
        control_.post([this, grant] { exchange_->receivers().sink_closed(grant); });
    };
    if (found == sinks_.end()) return closed();  // its session had ended before it could be opened
    const OpenSink open = std::move(found->second);
    sinks_.erase(found);
    if (Peer* peer = find(open.session)) {
        peer->sinks->remove(grant);
        if (const auto kind = peer->links->push_kind())
            peer->bytes[static_cast<std::size_t>(*kind)] += open.sink->placed_bytes();
    }
    open.sink->hold().close(closed);
}

Status Driver::check_remote(std::span<const Segment> segments, bool write) {
    return memory_.check(
        segments, write ? MemoryTable::Access::remote_write : MemoryTable::Access::remote_read);
}

void Driver::open_internal(TransferId id, bool sends) {
    transfers_[id] =
        std::make_shared<Transfer>(id, sends ? TransferKind::send : TransferKind::recv);
}

void Driver::complete(TransferId id, const Status& outcome) {
    const auto found = transfers_.find(id);
    if (found == transfers_.end()) return;
    const std::shared_ptr<Transfer> ended = std::move(found->second);
    transfers_.erase(found);
    // A peer's one-sided request is nobody's business here.
    if (!is_internal(id)) completions_.add(ended, outcome);
}

}  // namespace mc
