// SPDX-License-Identifier: Apache-2.0
#include "protocol/node.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>

#include "protocol/deadline.hpp"

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
                self->exchange().sessions().connected(id);  // the greeting may be there already
                self->attach(id, connection, Connection::acceptor);
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
    awake_since_ = network.now();
    while (!frozen_ && !deferred_.empty()) {
        const auto work = std::move(deferred_.front());
        deferred_.pop_front();
        work();
    }
}

void Node::lose_connections() {
    for (auto& [id, link] : links_) link.connection->lose();
}

void Node::reset_connections() {
    for (auto& [id, link] : links_) link.connection->reset();
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
    expect_end(id, request.deadline);
    exchange_->receivers().open(std::move(request));
    return id;
}

TransferId Node::write(const std::string& peer, std::vector<Segment> source,
                       std::vector<Segment> destination, Duration deadline) {
    const TransferId id{next_transfer_++};
    open_.insert(id);
    sources_[id] = std::make_shared<Source>();
    expect_end(id, deadline);
    exchange_->senders().write(id, peer, std::move(source), std::move(destination), deadline);
    return id;
}

TransferId Node::read(const std::string& peer, std::vector<Segment> source,
                      std::vector<Segment> destination, Duration deadline, Ended ended) {
    const TransferId id{next_transfer_++};
    open_.insert(id);
    ended_[id] = std::move(ended);
    expect_end(id, deadline);
    exchange_->receivers().read(id, peer, std::move(source), std::move(destination), deadline);
    return id;
}

void Node::expect_end(TransferId id, Duration patience) {
    if (open_.contains(id)) expected_[id] = {patience, deadline_after(network.now(), patience)};
}

void Node::touch(TransferId id) {
    const auto found = expected_.find(id);
    if (found == expected_.end() || found->second.patience == Duration::zero()) return;
    found->second.by = deadline_after(network.now(), found->second.patience);
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

GrantId Node::first_grant() const {
    for (const Message& message : messages) {
        if (const auto* recv = std::get_if<Recv>(&message)) return recv->grant;
    }
    ADD_FAILURE() << "no RECV was sent";
    return {};
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
    count("tags", exchange_->senders().tags());
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
    links_[id] = {connection, side, {}, network.now()};
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
        {here([id](Node& self, const Message& message) {
             if (self.exchange_->sessions().find(id) == nullptr) return;
             self.links_.at(id).quiet_since = self.network.now();
             self.ledger_.hears(id, message, self.network.now(),
                                self.network.now() + self.options.protocol.unknown_timeout);
             self.exchange_->receive(id, message);
         }),
         here([id](Node& self, unsigned lane, const Batch& batch) { self.land(id, lane, batch); }),
         here([id](Node& self, unsigned lane, GrantId grant, std::uint32_t epoch) {
             self.on_lane(id, lane, [&self, id, grant, epoch] {
                 self.exchange_->receivers().lane_ended(id, grant, epoch);
             });
         }),
         here([id](Node& self) {
             self.unlink(id);
             self.exchange_->sessions().closed(
                 id, Status(Code::peer_lost, "the peer closed the connection"));
         })});
}

void Node::send(SessionId session, const Message& message) {
    messages.push_back(message);
    const auto found = links_.find(session);
    if (found == links_.end()) return;
    ledger_.says(session, message);
    found->second.connection->send(found->second.side, message);
}

void Node::unlink(SessionId id) {
    links_.erase(id);
    ledger_.forget(id);
}

void Node::close(SessionId session, const Status& reason) {
    EXPECT_FALSE(reason.ok());
    EXPECT_FALSE(options.trusts_peers && reason.code() == Code::protocol)
        << address << " accuses a peer: " << reason.to_string();
    const auto found = links_.find(session);
    if (found == links_.end()) return;
    found->second.connection->close(found->second.side);
    unlink(session);
}

Proof toy_proof(std::uint64_t secret, const Bytes& statement) {
    Proof proof;
    std::uint64_t state = secret;
    for (const std::uint8_t byte : statement) state = (state ^ byte) * 0x100000001b3;
    for (std::uint8_t& byte : proof.mac)
        byte = static_cast<std::uint8_t>((state = state * 6364136223846793005U + 1) >> 56);
    return proof;
}

void Node::authenticate(SessionId session, AuthenticationRequest request) {
    later(network.work, [this, session, request = std::move(request)] {
        const Proof made = toy_proof(options.secrets.at(request.key), request.statement);
        if (request.proof && request.proof->mac != made.mac) {
            exchange_->authenticated(session, Status(Code::authentication_failed, "a wrong proof"));
        } else {
            exchange_->authenticated(session, made);
        }
    });
}

void Node::link(const Session& session) {
    if (!session.outgoing) return;
    later(network.work, [this, id = session.id] { exchange_->sessions().linked(id); });
}

bool Node::can_pull(SessionId) { return options.can_pull; }

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

void Node::open_internal(TransferId transfer, bool sends) {
    open_.insert(transfer);
    if (sends) sources_[transfer] = std::make_shared<Source>();
}

void Node::complete(TransferId id, const Status& outcome) {
    EXPECT_EQ(open_.erase(id), 1U) << "transfer " << id.value << " completes twice";
    EXPECT_FALSE(sources_.contains(id)) << "a send ends while its pages may be read";
    for (const auto& [grant, sink] : sinks_)
        EXPECT_NE(sink.recv, id) << "a recv ends while its pages may be written";
    EXPECT_FALSE(options.trusts_peers && outcome.code() == Code::protocol)
        << address << " accuses a peer: " << outcome.to_string();
    network.note(address, id.value << 8 | static_cast<std::uint64_t>(outcome.code()));
    expected_.erase(id);
    outcomes_[id] = outcome;
    const auto ended = ended_.extract(id);
    if (!ended.empty() && ended.mapped()) ended.mapped()(outcome);
}

}  // namespace mc::simulation
