// SPDX-License-Identifier: Apache-2.0
#include "world.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>

namespace mc::fuzz {

namespace {

constexpr std::uint8_t kUntouched = 0xdb;
constexpr std::uint32_t kTokenBytes = 4;  // of one plane
constexpr std::uint32_t kPlanes = 2;

const Status& taken_back() {
    static const Status status(Code::aborted, "the pages were taken back");
    return status;
}

// Touches every byte, so that the sanitizer sees where it lies.
template <typename Visit>
void for_each_segment(const std::shared_ptr<const Slice>& slice, Visit visit) {
    Cursor cursor(slice, 0, slice->bytes());
    std::array<Segment, 16> segments;
    while (const std::size_t count = cursor.next(segments)) {
        for (std::size_t i = 0; i < count; ++i) visit(segments[i]);
    }
}

Bytes gather(const std::shared_ptr<const Slice>& slice) {
    Bytes bytes;
    for_each_segment(slice, [&](const Segment& segment) {
        const auto* from = reinterpret_cast<const std::uint8_t*>(segment.address);
        bytes.insert(bytes.end(), from, from + segment.length);
    });
    return bytes;
}

}  // namespace

// --- Pages ------------------------------------------------------------------------------------

Pages::Pages(const std::string& name, std::uint32_t page_size, std::uint32_t page_count) {
    pool_.name = name;
    pool_.fingerprint = "model";
    pool_.page_size = page_size;
    pool_.page_count = page_count;
    for (std::uint32_t layer = 0; layer < kPlanes; ++layer) {
        auto& bytes =
            planes_.emplace_back(std::size_t{page_size} * page_count * kTokenBytes, kUntouched);
        Plane plane;
        plane.layer = layer;
        plane.dtype = "int8";
        plane.elements = kTokenBytes;
        plane.element_stride = 1;
        plane.head_stride = plane.token_stride = kTokenBytes;
        plane.page_stride = std::uint64_t{page_size} * kTokenBytes;
        plane.base = reinterpret_cast<std::uint64_t>(bytes.data());
        pool_.planes.push_back(plane);
    }
    for (std::uint32_t page = page_count; page > 0; --page)
        free_.push_back(static_cast<std::int32_t>(page - 1));
}

std::vector<std::int32_t> Pages::take(std::size_t count) {
    count = std::min(count, free_.size());
    std::vector<std::int32_t> taken(free_.rbegin(),
                                    free_.rbegin() + static_cast<std::ptrdiff_t>(count));
    free_.resize(free_.size() - count);
    return taken;
}

void Pages::give_back(const std::vector<std::int32_t>& pages, bool written) {
    for (const std::int32_t page : pages) {
        if (!written) check_untouched(page);
        for (const Plane& plane : pool_.planes) {
            auto* at = reinterpret_cast<std::uint8_t*>(plane.base) +
                       static_cast<std::uint64_t>(page) * plane.page_stride;
            std::memset(at, kUntouched, plane.page_stride);
        }
        free_.push_back(page);
    }
}

void Pages::check_untouched(std::int32_t page) const {
    for (const Plane& plane : pool_.planes) {
        const auto* at = reinterpret_cast<const std::uint8_t*>(plane.base) +
                         static_cast<std::uint64_t>(page) * plane.page_stride;
        EXPECT_TRUE(std::all_of(at, at + plane.page_stride,
                                [](std::uint8_t byte) { return byte == kUntouched; }))
            << "page " << page << " of pool " << pool_.name << " was written to";
    }
}

void Pages::check_free() const {
    for (const std::int32_t page : free_) check_untouched(page);
}

// --- Peers ------------------------------------------------------------------------------------

World::World(Options options) : options_(std::move(options)) {
    pages_.emplace("kv", Pages("kv", 4, 24));
    pages_.emplace("aux", Pages("aux", 1, 8));
    Hello self;
    self.instance = Token::random();
    self.address = options_.address;
    exchange_ = std::make_unique<Exchange>(*this, options_.protocol, self);
    for (const auto& [name, pages] : pages_) exchange_->sessions().add_pool(pages.pool());
}

SessionId World::accept() {
    const SessionId id = exchange_->sessions().accept();
    attach(id);
    exchange_->sessions().connected(id);
    return id;
}

void World::connect(SessionId session, const std::string&) { dialling_.insert(session); }

void World::dialled(SessionId session, bool reached) {
    dialling_.erase(session);
    if (exchange_->sessions().find(session) == nullptr) return;  // given up meanwhile
    if (!reached) {
        exchange_->sessions().closed(session, Status(Code::unreachable, "nobody listens there"));
        return;
    }
    attach(session);
    exchange_->sessions().connected(session);
}

void World::attach(SessionId id) {
    Peer& peer = peers_[id];
    peer.sinks = std::make_shared<SessionSinks>([this, id](GrantId grant, std::uint32_t epoch) {
        owe([this, id, grant, epoch](Verdict) {
            exchange_->receivers().lane_ended(id, grant, epoch);
        });
    });
    peer.lane = std::make_unique<Arrival>(*peer.sinks, log_);
}

void World::detach(SessionId id) {
    peers_.erase(id);
    ledger_.forget(id);
}

std::vector<SessionId> World::dialling() const { return {dialling_.begin(), dialling_.end()}; }

std::vector<SessionId> World::connected() const {
    std::vector<SessionId> ids;
    for (const auto& [id, peer] : peers_) ids.push_back(id);
    return ids;
}

void World::hear(SessionId session, const Message& message) {
    if (!peers_.contains(session)) return;
    ledger_.hears(session, message, now_, now_ + options_.protocol.unknown_timeout);
    exchange_->receive(session, message);
}

void World::hear_malformed(SessionId session, const Status& reason) {
    exchange_->malformed(session, reason);
}

void World::hear_batch(SessionId session, const BatchHeader& header,
                       std::span<const std::uint8_t> bytes) {
    const auto found = peers_.find(session);
    if (found == peers_.end()) return;
    Arrival& lane = *found->second.lane;
    lane.begin(header);
    if (header.kind == BatchHeader::Kind::end) return;
    lane.place(bytes.first(std::min<std::uint64_t>(bytes.size(), lane.left())));
    if (lane.left() > 0) lane.skip(lane.left());
}

void World::hang_up(SessionId session) {
    detach(session);
    exchange_->sessions().closed(session, Status(Code::peer_lost, "the peer hung up"));
}

void World::send(SessionId session, const Message& message) {
    if (!peers_.contains(session)) return;
    ledger_.says(session, message);
    if (on_send) on_send(session, message);
    said_.push_back({session, message});
    if (said_.size() > kRemembered) said_.pop_front();
}

void World::close(SessionId session, const Status& reason) {
    EXPECT_FALSE(reason.ok());
    detach(session);
}

Proof toy_proof(std::uint64_t secret, const Bytes& statement) {
    Proof proof;
    std::uint64_t state = secret;
    for (const std::uint8_t byte : statement) state = (state ^ byte) * 0x100000001b3;
    for (std::uint8_t& byte : proof.mac)
        byte = static_cast<std::uint8_t>((state = state * 6364136223846793005U + 1) >> 56);
    return proof;
}

void World::authenticate(SessionId session, AuthenticationRequest request) {
    owe([this, session, request = std::move(request)](Verdict) {
        const Proof made = toy_proof(options_.secrets.at(request.key), request.statement);
        if (request.proof && request.proof->mac != made.mac) {
            exchange_->authenticated(session, Status(Code::authentication_failed, "a wrong proof"));
        } else {
            exchange_->authenticated(session, made);
        }
    });
}

void World::link(const Session& session) {
    if (!session.outgoing) return;
    owe([this, id = session.id](Verdict verdict) {
        Session* linked = exchange_->sessions().find(id);
        if (linked == nullptr) return;
        if (verdict == Verdict::broken) {
            exchange_->sessions().fail(*linked, Status(Code::unreachable, "no path"));
        } else {
            exchange_->sessions().linked(id);
        }
    });
}

void World::answer(std::size_t index, Verdict verdict) {
    const auto at = owed_.begin() + static_cast<std::ptrdiff_t>(index);
    const auto what = std::move(*at);
    owed_.erase(at);
    what(verdict);
}

void World::pass(Duration time) {
    now_ += time;
    tick();
}

void World::tick() {
    if (now_ < wake_) return;
    wake_ = Instant::max();
    exchange_->tick(now_);
}

// --- Transfers --------------------------------------------------------------------------------

TransferId World::next_transfer() { return TransferId{next_transfer_++}; }

void World::started(TransferId id, TransferKind kind) {
    transfers_[id].transfer = std::make_shared<Transfer>(id, kind);
}

std::vector<TransferId> World::open() const {
    std::vector<TransferId> ids;
    for (const auto& [id, local] : transfers_) ids.push_back(id);
    return ids;
}

TransferId World::open_send(const std::string& tag, Duration patience) {
    const TransferId id = next_transfer();
    started(id, TransferKind::send);
    exchange_->senders().open(id, tag, patience);
    return id;
}

void World::append(TransferId send, std::size_t count) {
    const auto found = transfers_.find(send);
    if (found == transfers_.end()) return;
    const auto taken = pages("kv").take(count);
    auto& held = found->second.pages["kv"];
    held.insert(held.end(), taken.begin(), taken.end());
    exchange_->senders().append(send, pages("kv").pool(), taken, 0);
}

void World::mark_ready(TransferId send, std::uint32_t tokens) {
    const auto found = transfers_.find(send);
    if (found == transfers_.end()) return;
    // The facade allows no more than has pages.
    const std::size_t most = found->second.pages["kv"].size() * pages("kv").pool().page_size;
    exchange_->senders().mark_ready(
        send, static_cast<std::uint32_t>(std::min<std::size_t>(tokens, most)));
}

void World::rewind(TransferId send, std::uint32_t tokens) {
    const auto found = transfers_.find(send);
    if (found == transfers_.end()) return;
    const std::uint32_t epoch = found->second.transfer->source.take_back();
    exchange_->senders().rewind(send, tokens, epoch);
    // The pages stay with the send: where they go is the simulator's business.
}

void World::append_rows(TransferId send, std::size_t rows) {
    const auto found = transfers_.find(send);
    if (found == transfers_.end()) return;
    const auto taken = pages("aux").take(rows);
    auto& held = found->second.pages["aux"];
    held.insert(held.end(), taken.begin(), taken.end());
    exchange_->senders().append_final(send, pages("aux").pool(), taken, 0);
}

void World::open_recv(RecvRequest request, std::size_t count, std::size_t rows,
                      std::vector<TokenRange> wanted) {
    request.id = next_transfer();
    started(request.id, TransferKind::recv);
    Local& local = transfers_.at(request.id);
    const auto add = [&](const std::string& name, std::size_t pages_wanted,
                         std::span<const TokenRange> ranges) {
        Pages& from = pages(name);
        auto table = std::make_shared<PageTable>(from.pool().page_size, from.pool().page_count,
                                                 std::nullopt);
        local.pages[name] = from.take(pages_wanted);
        EXPECT_TRUE(table->append(local.pages[name]));
        const TokenRange all = table->tokens();
        auto present = intersect(ranges, {&all, 1});  // as the facade checks
        if (!present.empty()) request.parts.push_back({name, table, std::move(present)});
    };
    constexpr TokenRange kAll{0, UINT32_MAX};
    if (count > 0) add("kv", count, wanted);
    if (rows > 0) add("aux", rows, {&kAll, 1});
    exchange_->receivers().open(std::move(request));
}

void World::ship(const Shipment& shipment) {
    if (!peers_.contains(shipment.session)) return;
    const GrantKey key{shipment.session, shipment.grant};
    ledger_.ships(key, shipment.send);
    peers_.at(key.session).used_lanes.insert(key.grant);
    owe([this, key, send = shipment.send, epoch = shipment.epoch, part = shipment.part,
         tokens = shipment.tokens, source = shipment.source, pull = shipment.segment_bytes > 0,
         pages = std::vector(shipment.pages.begin(), shipment.pages.end())](Verdict verdict) {
        const std::uint64_t size = source->bytes();
        Status outcome = verdict == Verdict::broken ? Status(Code::peer_lost, "the lane broke")
                         : verdict == Verdict::taken_back ? taken_back()
                                                          : Status();
        std::uint64_t pushed = 0;
        const auto local = transfers_.find(send);
        if (outcome && local == transfers_.end()) outcome = taken_back();
        if (outcome) {
            const HoldVisit visit(*local->second.transfer->source.hold(), epoch);
            if (!visit) {
                outcome = taken_back();
            } else if (pull) {
                this->send(key.session, Ready{key.grant, epoch, part, tokens, pages, 0, epoch});
            } else {
                this->send(key.session, Data{key.grant, epoch, part, tokens, 0, gather(source)});
                pushed = size;
            }
        }
        ledger_.shipped(key);
        exchange_->senders().shipped(key, epoch, outcome, pushed);
    });
}

std::uint32_t World::end_lanes(SessionId session, GrantId grant, std::uint32_t) {
    const auto found = peers_.find(session);
    return found != peers_.end() && found->second.used_lanes.erase(grant) > 0 ? 1 : 0;
}

void World::close_source(TransferId send) {
    transfers_.at(send).transfer->source.close(
        [this, send] { owe([this, send](Verdict) { exchange_->senders().source_closed(send); }); });
}

void World::open_sink(SessionId session, GrantId grant, TransferId recv,
                      std::vector<SinkPart> parts) {
    auto sink = std::make_shared<GrantSink>(transfers_.at(recv).transfer, std::move(parts));
    if (const auto peer = peers_.find(session); peer != peers_.end())
        peer->second.sinks->add(grant, sink);
    EXPECT_TRUE(sinks_.emplace(grant, OpenSink{session, sink}).second) << "a grant opened twice";
}

Status World::place(const Data& data) { return sinks_.at(data.grant).sink->place(data); }

std::uint64_t World::placed(GrantId grant) { return sinks_.at(grant).sink->placed_bytes(); }

void World::rewind_sink(GrantId grant, std::uint32_t epoch) {
    sinks_.at(grant).sink->rewind(epoch);
}

void World::pull(const PullOrder& order) {
    EXPECT_EQ(order.source->bytes(), order.destination->bytes());
    const auto hold = sinks_.at(order.grant).sink->shared_hold();
    const bool inside = hold->enter(order.epoch);
    owe([this, order, hold, inside](Verdict verdict) {
        Status outcome = verdict == Verdict::broken ? Status(Code::peer_lost, "cannot read it")
                         : verdict == Verdict::taken_back || !inside ? taken_back()
                                                                     : Status();
        if (inside) {
            for_each_segment(order.destination, [](const Segment& segment) {
                std::memset(reinterpret_cast<void*>(segment.address), 1, segment.length);
            });
            hold->leave();
        }
        const std::uint64_t bytes = outcome ? order.source->bytes() : 0;
        exchange_->receivers().pulled(order.grant, order.epoch, outcome, bytes);
    });
}

void World::verify(GrantId grant, std::vector<SliceDigest> digests) {
    owe([this, grant, sink = sinks_.at(grant).sink, digests = std::move(digests)](Verdict) {
        const std::uint32_t epoch = sink->epoch();
        exchange_->receivers().verified(grant, epoch, sink->verify(digests));
    });
}

void World::close_sink(GrantId grant) {
    EXPECT_TRUE(closing_.insert(grant).second) << "a sink is closed twice";
    const OpenSink& open = sinks_.at(grant);
    if (const auto peer = peers_.find(open.session); peer != peers_.end())
        peer->second.sinks->remove(grant);
    open.sink->hold().close([this, grant] {
        owe([this, grant](Verdict) {
            sinks_.erase(grant);
            closing_.erase(grant);
            exchange_->receivers().sink_closed(grant);
        });
    });
}

Status World::check_remote(std::span<const Segment> segments, bool write) {
    const std::uint64_t begin = write ? writable() : readable();
    for (const Segment& segment : segments) {
        if (segment.address < begin || segment.length > kRegistered ||
            segment.address - begin > kRegistered - segment.length) {
            return {Code::invalid_argument, "that memory is not registered for this"};
        }
    }
    return {};
}

void World::open_internal(TransferId transfer, bool sends) {
    started(transfer, sends ? TransferKind::send : TransferKind::recv);
}

void World::complete(TransferId id, const Status&) {
    for (const auto& [grant, open] : sinks_)
        EXPECT_NE(open.sink->transfer()->id, id) << "a recv ends while its pages may be written";
    const auto found = transfers_.find(id);
    ASSERT_NE(found, transfers_.end()) << "transfer " << id.value << " completes twice";
    const bool written = found->second.transfer->kind == TransferKind::recv;
    for (const auto& [pool, held] : found->second.pages) pages(pool).give_back(held, written);
    transfers_.erase(found);
}

}  // namespace mc::fuzz
