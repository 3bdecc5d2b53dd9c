// SPDX-License-Identifier: Apache-2.0
#include "protocol/node.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>

#include "layout/digest.hpp"

namespace mc::simulation {

Node::Node(Network& net, std::string at, NodeOptions chosen)
    : network(net), address(std::move(at)), options(std::move(chosen)) {
    Hello self;
    self.instance = options.instance;
    self.address = address;
    exchange_ = std::make_unique<Exchange>(*this, options.protocol, self);
    for (const Shape& shape : options.pools) {
        const auto added = memories_.emplace(shape.name, Memory(shape)).first;
        exchange_->sessions().add_pool(added->second.pool());
    }
}

Node::~Node() { crash(); }

std::shared_ptr<Node> Node::start(Network& network, const std::string& address,
                                  NodeOptions options) {
    std::shared_ptr<Node> node(new Node(network, address, std::move(options)));
    network.listen(address, [weak = node->weak_from_this()](const auto& connection) {
        if (const auto alive = weak.lock()) {
            alive->run([self = alive.get(), connection] {
                const SessionId id = self->exchange().sessions().accept();
                self->attach(id, connection, Connection::acceptor);
                self->exchange().sessions().connected(id);
            });
        }
    });
    return node;
}

void Node::run(std::function<void()> work) {
    if (frozen_) {
        deferred_.push_back(std::move(work));
    } else {
        work();
    }
}

void Node::later(const Delay& delay, std::function<void()> work) {
    network.after(delay, [weak = weak_from_this(), work = std::move(work)] {
        if (const auto alive = weak.lock()) alive->run(work);
    });
}

void Node::thaw() {
    frozen_ = false;
    while (!frozen_ && !deferred_.empty()) {
        const auto work = std::move(deferred_.front());
        deferred_.pop_front();
        work();
    }
}

void Node::lose_connections() {
    for (auto& [id, link] : links_) link.connection->lose();
}

void Node::crash() {
    if (std::exchange(crashed_, true)) return;  // another incarnation may listen there already
    for (auto& [id, link] : std::exchange(links_, {})) link.connection->close(link.side);
    network.unlisten(address);
}

TransferId Node::open_send(const std::string& tag, Duration patience, Ended ended) {
    const TransferId id{next_transfer_++};
    open_.insert(id);
    ended_[id] = std::move(ended);
    sources_[id] = std::make_shared<Source>();
    exchange_->senders().open(id, tag, patience);
    return id;
}

TransferId Node::open_recv(RecvRequest request, Ended ended) {
    const TransferId id{next_transfer_++};
    open_.insert(id);
    ended_[id] = std::move(ended);
    request.id = id;
    exchange_->receivers().open(std::move(request));
    return id;
}

TransferId Node::write(const std::string& peer, std::vector<Segment> source,
                       std::vector<Segment> destination, Duration deadline) {
    const TransferId id{next_transfer_++};
    open_.insert(id);
    sources_[id] = std::make_shared<Source>();
    exchange_->senders().write(id, peer, std::move(source), std::move(destination), deadline);
    return id;
}

TransferId Node::read(const std::string& peer, std::vector<Segment> source,
                      std::vector<Segment> destination, Duration deadline) {
    const TransferId id{next_transfer_++};
    open_.insert(id);
    exchange_->receivers().read(id, peer, std::move(source), std::move(destination), deadline);
    return id;
}

std::uint32_t Node::take_back(TransferId send) {
    const auto found = sources_.find(send);
    return found == sources_.end() ? 0 : ++found->second->epoch;
}

std::optional<Status> Node::outcome(TransferId id) const {
    const auto found = outcomes_.find(id);
    if (found == outcomes_.end()) return std::nullopt;
    return found->second;
}

std::size_t Node::sent(std::string_view name) const {
    return static_cast<std::size_t>(
        std::count_if(messages.begin(), messages.end(),
                      [&](const Message& message) { return name_of(message) == name; }));
}

std::string Node::leftovers() const {
    std::string left;
    const auto count = [&](const std::string& what, std::size_t number) {
        if (number > 0) left += address + " has " + std::to_string(number) + " " + what + "\n";
    };
    count("transfers without an end", open_.size());
    count("sends", exchange_->senders().size());
    count("grants of sends", exchange_->senders().grants());
    count("parked RECVs", exchange_->senders().parked());
    count("recvs", exchange_->receivers().size());
    count("grants of recvs", exchange_->receivers().grants());
    count("sources", sources_.size());
    count("sinks", sinks_.size());
    for (const auto& [id, session] : exchange_->sessions().all()) {
        const std::string of = " of session " + std::to_string(id.value);
        count("transfers that keep it busy" + of, session.busy);
        count("grants on credit" + of, session.open_grants.size());
        count("grants that wait for credit" + of, session.waiting_grants.size());
        count("writes on credit" + of, session.open_writes.size());
        count("writes that wait for credit" + of, session.waiting_writes.size());
        count("parked ranges of the peer" + of, session.peer_parked_ranges);
        count("grants of the peer" + of, session.peer_grants.size());
        count("writes of the peer" + of, session.peer_writes.size());
    }
    for (const auto& [id, link] : links_)
        count("grants with lanes in session " + std::to_string(id.value), link.used_lanes.size());
    return left;
}

// --- Sessions ---------------------------------------------------------------------------------

void Node::wake_at(Instant when) {
    if (wake_ && *wake_ <= when) return;
    wake_ = when;
    network.at(when, [weak = weak_from_this(), when] {
        const auto alive = weak.lock();
        if (!alive) return;
        alive->run([self = alive.get(), when] {
            if (self->wake_ != when) return;  // an earlier timer has taken its place
            self->wake_.reset();
            self->exchange_->tick(self->network.now());
        });
    });
}

void Node::connect(SessionId session, const std::string& peer) {
    later(network.wire, [this, session, peer] {
        if (exchange_->sessions().find(session) == nullptr) return;  // given up meanwhile
        const auto connection = network.connect(peer);
        if (connection == nullptr) {
            exchange_->sessions().closed(session,
                                         Status(Code::unreachable, "nobody listens at " + peer));
            return;
        }
        attach(session, connection, Connection::connector);
        exchange_->sessions().connected(session);
    });
}

void Node::attach(SessionId id, const std::shared_ptr<Connection>& connection,
                  Connection::Side side) {
    links_[id] = {connection, side, {}};
    // Whatever arrives is this node's business only while it lives, and waits while it is frozen.
    const auto here = [weak = weak_from_this()](auto handler) {
        return [weak, handler](const auto&... what) {
            const auto alive = weak.lock();
            if (alive)
                alive->run([self = alive.get(), handler, what...] { handler(*self, what...); });
        };
    };
    connection->attach(
        side,
        {here([id](Node& self, const Message& message) { self.exchange_->receive(id, message); }),
         here([id](Node& self, const Batch& batch) { self.land(id, batch); }),
         here([id](Node& self, GrantId grant, std::uint32_t epoch) {
             self.exchange_->receivers().lane_ended(id, grant, epoch);
         }),
         here([id](Node& self) {
             self.links_.erase(id);
             self.exchange_->sessions().closed(
                 id, Status(Code::peer_lost, "the peer closed the connection"));
         })});
}

void Node::send(SessionId session, const Message& message) {
    messages.push_back(message);
    const auto found = links_.find(session);
    if (found != links_.end()) found->second.connection->send(found->second.side, message);
}

void Node::close(SessionId session, const Status& reason) {
    EXPECT_FALSE(reason.ok());
    const auto found = links_.find(session);
    if (found == links_.end()) return;
    found->second.connection->close(found->second.side);
    links_.erase(found);
}

void Node::link(const Session& session) {
    if (!session.outgoing) return;
    later(network.work, [this, id = session.id] { exchange_->sessions().linked(id); });
}

bool Node::can_pull(SessionId) { return options.can_pull; }

// --- Sources ----------------------------------------------------------------------------------

bool Node::current(TransferId send, std::uint32_t epoch) const {
    const auto found = sources_.find(send);
    return found != sources_.end() && !found->second->closed && found->second->epoch == epoch;
}

void Node::answer(const Shipment& shipment, const Status& outcome, std::uint64_t bytes) {
    later(network.work,
          [this, key = GrantKey{shipment.session, shipment.grant}, epoch = shipment.epoch, outcome,
           bytes] { exchange_->senders().shipped(key, epoch, outcome, bytes); });
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

void Node::land(SessionId session, const Batch& batch) {
    const auto found = sinks_.find(batch.grant);
    if (found == sinks_.end() || found->second.session != session ||
        found->second.epoch != batch.epoch) {
        return;
    }
    const auto slice = destination(found->second, batch.part, batch.tokens);
    ASSERT_TRUE(slice.ok()) << slice.status().to_string();
    scatter(found->second, *slice, batch.offset, batch.bytes);
    found->second.placed += batch.bytes.size();
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
    EXPECT_EQ(sink.reads, 0U) << "a sink is rewound while reads of the old epoch are under way";
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
        ++found->second.reads;
        scatter(found->second, order.destination, 0,
                gather(order.source, 0, order.source->bytes()));
        later(network.work, [this, order, answer, watched = std::weak_ptr(source)] {
            --sinks_.at(order.grant).reads;
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
    EXPECT_FALSE(sinks_.at(grant).closing) << "a sink is closed twice";
    later(network.work, [this, grant] {
        sinks_.at(grant).closing = true;
        end_sink(grant);
    });
}

// What is inside may still write; then, and only then, nobody does.
void Node::end_sink(GrantId grant) {
    const Sink& sink = sinks_.at(grant);
    if (!sink.closing || sink.reads > 0) return;
    sinks_.erase(grant);
    exchange_->receivers().sink_closed(grant);
}

// --- The rest ---------------------------------------------------------------------------------

Status Node::check_remote(std::span<const Segment> segments, bool write) {
    const auto& memory = write ? writable : readable;
    const auto begin = reinterpret_cast<std::uint64_t>(memory.data());
    for (const Segment& segment : segments) {
        if (segment.address < begin || segment.length > memory.size() ||
            segment.address - begin > memory.size() - segment.length) {
            return {Code::invalid_argument, "that memory is not registered for this"};
        }
    }
    return {};
}

void Node::open_remote(TransferId transfer, SessionId, bool sends) {
    open_.insert(transfer);
    if (sends) sources_[transfer] = std::make_shared<Source>();
}

void Node::complete(TransferId id, const Status& outcome) {
    EXPECT_EQ(open_.erase(id), 1U) << "transfer " << id.value << " completes twice";
    outcomes_[id] = outcome;
    const auto ended = ended_.extract(id);
    if (!ended.empty() && ended.mapped()) ended.mapped()(outcome);
}

}  // namespace mc::simulation
