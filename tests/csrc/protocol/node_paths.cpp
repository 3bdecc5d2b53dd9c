// SPDX-License-Identifier: Apache-2.0
// How a simulated engine moves bytes.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>

#include "layout/digest.hpp"
#include "protocol/node.hpp"

namespace mc::simulation {

// --- Sources ----------------------------------------------------------------------------------

bool Node::current(TransferId send, std::uint32_t epoch) const {
    const auto found = sources_.find(send);
    return found != sources_.end() && !found->second->closed && found->second->epoch == epoch;
}

void Node::answer(const Shipment& shipment, const Status& outcome, std::uint64_t bytes) {
    later(network.work, [this, key = GrantKey{shipment.session, shipment.grant},
                         send = shipment.send, epoch = shipment.epoch, outcome, bytes] {
        touch(send);
        ledger_.shipped(key);
        exchange_->senders().shipped(key, epoch, outcome, bytes);
    });
}

namespace {

const Status& taken_back() {
    static const Status status(Code::aborted, "the pages were taken back");
    return status;
}

Bytes gather(const std::shared_ptr<const Slice>& slice, std::uint64_t offset,
             std::uint64_t length) {
    Bytes bytes;
    Cursor cursor(slice, offset, length);
    std::array<Segment, 8> segments;
    while (const std::size_t count = cursor.next(segments)) {
        for (std::size_t i = 0; i < count; ++i) {
            const auto* from = reinterpret_cast<const std::uint8_t*>(segments[i].address);
            bytes.insert(bytes.end(), from, from + segments[i].length);
        }
    }
    return bytes;
}

}  // namespace

void Node::ship(const Shipment& shipment) {
    const auto found = links_.find(shipment.session);
    if (found == links_.end()) return;  // the session is about to be closed
    ledger_.ships({shipment.session, shipment.grant}, shipment.send);
    shipped.push_back(shipment.tokens);
    if (shipment.verify) {
        const std::uint64_t value =
            digest(Cursor(shipment.source, 0, shipment.source->bytes())) + damages_digests;
        send(shipment.session,
             SliceDigest{shipment.grant, shipment.epoch, shipment.part, shipment.tokens, value});
    }
    Way way = options.way;
    if (way == Way::any) way = static_cast<Way>(pick(network.random, 0, 2));
    if (way == Way::pull && shipment.segment_bytes == 0) way = Way::push;
    if (way == Way::push) {
        push(shipment, static_cast<unsigned>(pick(network.random, 1, options.lanes)));
    } else if (!current(shipment.send, shipment.epoch)) {
        answer(shipment, taken_back(), 0);
    } else if (way == Way::inline_data) {
        Bytes bytes = gather(shipment.source, 0, shipment.source->bytes());
        const std::uint64_t size = bytes.size();
        send(shipment.session, Data{shipment.grant, shipment.epoch, shipment.part, shipment.tokens,
                                    0, std::move(bytes)});
        answer(shipment, {}, size);
    } else {
        network.guards.push_back(sources_.at(shipment.send));
        send(shipment.session, Ready{shipment.grant,
                                     shipment.epoch,
                                     shipment.part,
                                     shipment.tokens,
                                     {shipment.pages.begin(), shipment.pages.end()},
                                     network.guards.size() - 1,
                                     shipment.epoch});
        answer(shipment, {}, 0);
    }
}

// In equal shares over some lanes, each share in a thread of its own.
void Node::push(const Shipment& shipment, unsigned lanes) {
    struct Shares {
        unsigned left = 0;
        std::uint64_t bytes = 0;
        Status outcome;
    };
    const auto shares = std::make_shared<Shares>();
    shares->left = lanes;
    const std::uint64_t total = shipment.source->bytes();
    for (unsigned i = 0; i < lanes; ++i) {
        const unsigned lane = 1 + i;
        const std::uint64_t begin = total * i / lanes;
        const std::uint64_t end = total * (i + 1) / lanes;
        links_.at(shipment.session).used_lanes[shipment.grant].insert(lane);
        later(network.work, [this, shipment, shares, lane, begin, end] {
            const auto found = links_.find(shipment.session);
            if (!current(shipment.send, shipment.epoch)) {
                shares->outcome = taken_back();
            } else if (found == links_.end()) {
                shares->outcome = Status(Code::peer_lost, "the lane is closed");
            } else {
                Batch batch{shipment.grant, shipment.epoch,
                            shipment.part,  shipment.tokens,
                            begin,          gather(shipment.source, begin, end - begin)};
                shares->bytes += batch.bytes.size();
                found->second.connection->push(found->second.side, lane, std::move(batch));
            }
            if (--shares->left == 0) answer(shipment, shares->outcome, shares->bytes);
        });
    }
}

std::uint32_t Node::end_lanes(SessionId session, GrantId grant, std::uint32_t epoch) {
    const auto found = links_.find(session);
    if (found == links_.end()) return 0;
    Link& link = found->second;
    const auto used = link.used_lanes.extract(grant);
    if (used.empty()) return 0;
    for (const unsigned lane : used.mapped()) {
        link.connection->end_lane(link.side, lane, grant, epoch);
    }
    return static_cast<std::uint32_t>(used.mapped().size());
}

void Node::close_source(TransferId id) {
    Source& source = *sources_.at(id);
    EXPECT_FALSE(source.closed) << "a source is closed twice";
    source.closed = true;
    later(network.work, [this, id] {
        sources_.erase(id);
        exchange_->senders().source_closed(id);
    });
}

void Node::matched(TransferId id, SessionId, std::optional<std::uint32_t> first_token) {
    matches.emplace_back(id, first_token);
    touch(id);
}

// --- Sinks ------------------------------------------------------------------------------------

void Node::open_sink(SessionId session, GrantId grant, TransferId recv,
                     std::vector<SinkPart> parts) {
    const bool fresh = sinks_.emplace(grant, Sink{session, recv, std::move(parts)}).second;
    EXPECT_TRUE(fresh) << "a grant is opened twice";
}

Result<std::shared_ptr<const Slice>> Node::destination(const Sink& sink, std::uint16_t part,
                                                       TokenRange tokens) const {
    if (part >= sink.parts.size()) return Status(Code::protocol, "no such part");
    const SinkPart& wanted = sink.parts[part];
    if (wanted.list) return wanted.list;
    if (tokens.empty() || intersect(wanted.wanted, {&tokens, 1}) != std::vector{tokens}) {
        return Status(Code::protocol, "tokens that were not asked for");
    }
    return Slice::make(wanted.walk, *wanted.pages, tokens);
}

void Node::scatter(const Sink& sink, const std::shared_ptr<const Slice>& slice,
                   std::uint64_t offset, std::span<const std::uint8_t> bytes) {
    EXPECT_TRUE(open_.contains(sink.recv)) << "a byte lands after its transfer has completed";
    network.note("lands", bytes.size());
    Cursor cursor(slice, offset, bytes.size());
    std::array<Segment, 8> segments;
    while (const std::size_t count = cursor.next(segments)) {
        for (std::size_t i = 0; i < count; ++i) {
            std::memcpy(reinterpret_cast<void*>(segments[i].address), bytes.data(),
                        segments[i].length);
            bytes = bytes.subspan(segments[i].length);
        }
    }
}

void Node::on_lane(SessionId session, unsigned lane, std::function<void()> work) {
    Instant& busy_until = lane_busy_until_[{session, lane}];
    busy_until = std::max(busy_until, network.now() + network.draw(network.work));
    const Duration wait = busy_until - network.now();
    later({wait, wait}, std::move(work));
}

// Whether the bytes are wanted is decided when they come; they are in place a little later.
void Node::land(SessionId session, unsigned lane, const Batch& batch) {
    const auto found = sinks_.find(batch.grant);
    if (found == sinks_.end() || found->second.session != session ||
        found->second.epoch != batch.epoch || found->second.closing) {
        return;
    }
    ++found->second.writers;
    on_lane(session, lane, [this, batch] {
        Sink& sink = sinks_.at(batch.grant);
        const auto slice = destination(sink, batch.part, batch.tokens);
        ASSERT_TRUE(slice.ok()) << slice.status().to_string();
        scatter(sink, *slice, batch.offset, batch.bytes);
        sink.placed += batch.bytes.size();
        --sink.writers;
        end_sink(batch.grant);
    });
}

Status Node::place(const Data& data) {
    Sink& sink = sinks_.at(data.grant);
    EXPECT_EQ(sink.epoch, data.epoch);
    const auto slice = destination(sink, data.part, data.tokens);
    if (!slice) return slice.status();
    if (data.offset > (*slice)->bytes() || data.bytes.size() > (*slice)->bytes() - data.offset) {
        return {Code::protocol, "DATA beyond the end of its slice"};
    }
    scatter(sink, *slice, data.offset, data.bytes);
    sink.placed += data.bytes.size();
    return {};
}

std::uint64_t Node::placed(GrantId grant) { return sinks_.at(grant).placed; }

void Node::rewind_sink(GrantId grant, std::uint32_t epoch) {
    Sink& sink = sinks_.at(grant);
    EXPECT_EQ(sink.writers, 0U) << "a sink is rewound while the old epoch may be written";
    sink.epoch = epoch;
    sink.placed = 0;
}

// The bytes are in place before the guard is looked at, as with every path that reads a peer.
void Node::pull(const PullOrder& order) {
    EXPECT_EQ(order.source->bytes(), order.destination->bytes());
    later(network.work, [this, order] {
        const auto answer = [this, order](const Status& outcome) {
            exchange_->receivers().pulled(order.grant, order.epoch, outcome,
                                          outcome ? order.source->bytes() : 0);
        };
        const auto found = sinks_.find(order.grant);
        if (found == sinks_.end() || found->second.epoch != order.epoch)
            return answer(taken_back());
        const auto source = network.guards.at(order.guard).lock();
        if (!source) return answer(Status(Code::aborted, "the sender's pages are gone"));
        ++found->second.writers;
        scatter(found->second, order.destination, 0,
                gather(order.source, 0, order.source->bytes()));
        later(network.work, [this, order, answer, watched = std::weak_ptr(source)] {
            --sinks_.at(order.grant).writers;
            const auto guard = watched.lock();
            answer(guard && !guard->closed && guard->epoch == order.expected ? Status()
                                                                             : taken_back());
            end_sink(order.grant);
        });
    });
}

void Node::verify(GrantId grant, std::vector<SliceDigest> digests) {
    later(network.work,
          [this, grant, epoch = sinks_.at(grant).epoch, digests = std::move(digests)] {
              const auto found = sinks_.find(grant);
              if (found == sinks_.end() || found->second.epoch != epoch) return;
              Status outcome;
              for (const SliceDigest& digest : digests) {
                  const auto slice = destination(found->second, digest.part, digest.tokens);
                  ASSERT_TRUE(slice.ok());
                  if (mc::digest(Cursor(*slice, 0, (*slice)->bytes())) != digest.value)
                      outcome = Status(Code::internal, "the digests differ");
              }
              exchange_->receivers().verified(grant, epoch, outcome);
          });
}

void Node::close_sink(GrantId grant) {
    EXPECT_FALSE(std::exchange(sinks_.at(grant).told, true)) << "a sink is closed twice";
    later(network.work, [this, grant] {
        sinks_.at(grant).closing = true;
        end_sink(grant);
    });
}

// What is inside may still write; then, and only then, nobody does.
void Node::end_sink(GrantId grant) {
    const Sink& sink = sinks_.at(grant);
    if (!sink.closing || sink.writers > 0) return;
    sinks_.erase(grant);
    exchange_->receivers().sink_closed(grant);
}

}  // namespace mc::simulation
