// SPDX-License-Identifier: Apache-2.0
// Sessions and their connections.
#include "engine/driver.hpp"

#include <algorithm>
#include <future>
#include <utility>

#include "transport/numa.hpp"

namespace mc {

namespace {

constexpr Duration kLinkTimeout = std::chrono::seconds(5);
constexpr int kLinksPerSession = 2;  // one for small and one for large transfers
constexpr int kMaxLanes = 64;        // of a session; config.py allows no more

std::string_view state_name(Session::State state) {
    switch (state) {
        case Session::State::connecting: return "connecting";
        case Session::State::greeting: return "greeting";
        case Session::State::linking: return "linking";
        case Session::State::ready: return "ready";
    }
    return "unknown";
}

}  // namespace

Driver::Driver(const EngineOptions& options, InstanceId instance, Log& log,
               Completions& completions, MemoryTable& memory)
    : options_(options),
      log_(log),
      completions_(completions),
      memory_(memory),
      instance_(instance),
      io_("mc-io-", std::max<std::size_t>(1, options.io_threads)),
      copy_("mc-copy-", std::max<std::size_t>(1, options.copy_threads)) {}

Driver::~Driver() { stop(); }

Status Driver::start() {
    acceptor_ = std::make_unique<Acceptor>(
        control_, log_,
        [this](FileDescriptor socket, const Preamble& preamble) {
            accepted(std::move(socket), preamble);
        },
        [this](Instant when) { wake_at(when); });
    MC_RETURN_IF_ERROR(acceptor_->listen({options_.host, options_.port}));
    HostPort announced = acceptor_->address();
    // Names are judged by what they stand for. Nobody is let in before the loop starts.
    if (!is_loopback(announced.host) && options_.protocol.keys.empty()) {
        return {Code::invalid_argument,
                "host=\"" + options_.host +
                    "\" is not a loopback address, and without a key anybody who reaches it could "
                    "read and write KV; give all engines the same key (key_file), or use "
                    "host=\"127.0.0.1\""};
    }
    if (!options_.advertise.empty()) announced.host = options_.advertise;
    address_ = announced.text();

    Hello self;
    self.instance = instance_;
    self.address = address_;
    self.boot_id = boot_id();
    self.paths = options_.path_bits();
    if (options_.allows(PathKind::local) || options_.allows(PathKind::shm) ||
        options_.allows(PathKind::cma)) {
        auto server = SameHostServer::listen(
            control_, options_.ipc_dir,
            [this](const Token& token) {
                const auto found = tokens_.find(token);
                if (found == tokens_.end() || found->second.links_left == 0) return false;
                --found->second.links_left;
                return true;
            },
            [this](const Token& token, SameHostLink link) {
                accepted_same_host(token, std::move(link));
            },
            log_);
        if (server) {
            same_host_server_ = std::move(*server);
            self.same_host_name = same_host_server_->name();
        } else if (options_.strict || !options_.ipc_dir.empty()) {
            return server.status().with_context("no same-host paths");
        } else {
            log_.write(LogLevel::warning, "no same-host paths: " + server.status().message());
        }
    }
    exchange_ = std::make_unique<Exchange>(*this, options_.protocol, std::move(self));
    return control_.start("mc-control", options_.busy_poll);
}

void Driver::stop() {
    if (std::exchange(stopped_, true)) return;
    proofs_.close();
    if (exchange_) {
        std::promise<void> ended;
        control_.post([&] {
            const Status reason(Code::aborted, "the engine was closed");
            acceptor_->close();
            exchange_->sessions().close_all(reason);
            const auto open = transfers_;
            for (const auto& [id, transfer] : open) {
                exchange_->senders().abort(id, reason);
                exchange_->receivers().cancel(id, reason);
            }
            ended.set_value();
        });
        ended.get_future().wait();
    }
    background_.join();
    // What the sessions' ends have set going (paths closing, holds becoming idle) runs to its end:
    // first in the paths' threads, then here.
    io_.stop();
    copy_.stop();
    control_.stop();
    peers_.clear();
    same_host_server_.reset();
    acceptor_.reset();
    while (!transfers_.empty())
        complete(transfers_.begin()->first, Status(Code::aborted, "the engine was closed"));
}

Driver::Peer* Driver::find(SessionId id) {
    const auto found = peers_.find(id);
    return found == peers_.end() ? nullptr : &found->second;
}

Driver::Peer& Driver::make_peer(SessionId id, const std::string& address) {
    Peer& peer = peers_[id];
    peer.address = address;
    peer.sinks = std::make_shared<SessionSinks>([this, id](GrantId grant, std::uint32_t epoch) {
        control_.post([this, id, grant, epoch] {
            exchange_->sessions().heard(id);
            exchange_->receivers().lane_ended(id, grant, epoch);
        });
    });
    peer.links =
        std::make_unique<Links>(Links::Context{options_, control_, io_, copy_, log_}, peer.sinks,
                                [this, id](const Status& reason) {
                                    control_.post([this, id, reason] { path_broke(id, reason); });
                                });
    return peer;
}

void Driver::wake_at(Instant when) {
    if (wake_ && *wake_ <= when) return;
    wake_ = when;
    control_.set_timer(when, [this] { tick(); });
}

void Driver::tick() {
    wake_.reset();
    const Instant at = now();
    acceptor_->tick(at);
    exchange_->tick(at);
}

void Driver::connect(SessionId session, const std::string& address) {
    make_peer(session, address);
    const auto target = parse_host_port(address);
    if (!target) {
        const Status reason = target.status();
        control_.post([this, session, reason] { session_lost(session, reason); });
        return;
    }
    background_.run([this, session, target = *target] {
        auto socket = connect_tcp(target, now() + options_.protocol.hello_timeout);
        Status outcome =
            socket ? send_preamble(socket->get(), {Preamble::Kind::control, {}}) : socket.status();
        auto shared =
            std::make_shared<FileDescriptor>(outcome ? std::move(*socket) : FileDescriptor());
        control_.post([this, session, shared, outcome] {
            if (!outcome) {
                session_lost(
                    session,
                    Status(Code::unreachable,
                           outcome.message() +
                               "; is the peer running, and its port reachable from here?"));
            } else if (find(session) != nullptr) {
                attach_channel(session, std::move(*shared));
                exchange_->sessions().connected(session);
            }
        });
    });
}

void Driver::attach_channel(SessionId id, FileDescriptor socket) {
    Peer& peer = *find(id);
    peer.channel = std::make_shared<ControlChannel>(
        control_, std::move(socket),
        ControlChannel::Handlers{
            [this, id](const Message& message) { exchange_->receive(id, message); },
            [this, id](const Status& reason) {
                if (reason.code() == Code::protocol) {
                    exchange_->malformed(id, reason);
                }
                session_lost(id, reason);
            },
            [this, id] { return exchange_->greeted(id); }});
    if (const Status started = peer.channel->start(); !started) {
        control_.post([this, id, started] { session_lost(id, started); });
    }
}

void Driver::accepted(FileDescriptor socket, const Preamble& preamble) {
    if (preamble.kind == Preamble::Kind::control) {
        const SessionId id = exchange_->sessions().accept();
        make_peer(id, "");
        attach_channel(id, std::move(socket));
        exchange_->sessions().connected(id);
        return;
    }
    const auto found = tokens_.find(preamble.token);
    Peer* peer = found == tokens_.end() ? nullptr : find(found->second.session);
    if (peer == nullptr || found->second.lanes_left == 0) {
        log_.write(LogLevel::warning, peer == nullptr
                                          ? "refused a lane that belongs to no session"
                                          : "refused one lane too many of " + peer->address);
        return;
    }
    --found->second.lanes_left;
    const SessionId id = found->second.session;
    if (const Status added = peer->links->add_lane(std::move(socket)); !added) {
        session_lost(id, added);
    } else {
        links_changed(*peer);
    }
}

void Driver::accepted_same_host(const Token& token, SameHostLink link) {
    const auto found = tokens_.find(token);
    Peer* peer = found == tokens_.end() ? nullptr : find(found->second.session);
    if (peer == nullptr) return;  // the session ended meanwhile; the peer sees the link close
    const SessionId id = found->second.session;
    if (const Status added = add_same_host(*peer, std::move(link)); !added) {
        session_lost(id, added);
    } else {
        links_changed(*peer);
    }
}

Status Driver::add_same_host(Peer& peer, SameHostLink link) {
    auto socket = peer.links->add_same_host(std::move(link));
    if (!socket) return socket.status();
    return *socket && peer.channel ? peer.channel->move_to(std::move(*socket)) : Status();
}

void Driver::link(const Session& session) {
    Peer& peer = *find(session.id);
    peer.address = session.address.empty() ? session.peer.address : session.address;
    peer.link_token = session.link_token;
    peer.links->restrict_to(session.peer.paths);
    tokens_[session.link_token] = {session.id, kLinksPerSession, kMaxLanes};
    if (!session.outgoing) return;  // who connects makes the links too
    LinkTarget target{session.address,         session.peer.boot_id, session.peer.same_host_name,
                      session.peer.link_token, session.peer.paths,   node_of_pools()};
    background_.run([this, id = session.id, target = std::move(target)] {
        auto offer =
            std::make_shared<LinkOffer>(connect_links(options_, target, now() + kLinkTimeout));
        control_.post([this, id, offer] { linked(id, std::move(*offer)); });
    });
}

// Where most of what the rings carry lies, at this end. A worker's pools lie on one node.
std::optional<unsigned> Driver::node_of_pools() const {
    for (const Pool& pool : exchange_->sessions().self().pools) {
        if (pool.memory.type == MemoryKind::Type::host && !pool.planes.empty())
            return numa_node_of(reinterpret_cast<const void*>(pool.planes.front().base));
    }
    return std::nullopt;
}

void Driver::linked(SessionId id, LinkOffer offer) {
    Peer* peer = find(id);
    if (peer == nullptr) return;
    peer->notes = std::move(offer.notes);
    Status outcome = offer.failure;
    // Links that came up without being of use stay open too: to the peer their end would be the
    // session's.
    for (SameHostLink& link : offer.same_host) {
        if (outcome) outcome = add_same_host(*peer, std::move(link));
    }
    for (FileDescriptor& lane : offer.tcp_lanes) {
        if (outcome) outcome = peer->links->add_lane(std::move(lane));
    }
    if (!outcome) {
        if (Session* session = exchange_->sessions().find(id))
            exchange_->sessions().fail(*session, outcome);
        return;
    }
    log_path(*peer);
    links_changed(*peer);
    exchange_->sessions().linked(id);
}

void Driver::links_changed(Peer& peer) {
    std::deque<Waiting> waiting = std::exchange(peer.waiting, {});
    for (Waiting& entry : waiting) {
        entry.shipment.pages = entry.pages;
        if (!try_ship(peer, entry.shipment)) peer.waiting.push_back(std::move(entry));
    }
}

void Driver::log_path(Peer& peer) {
    if (std::exchange(peer.path_logged, true)) return;
    std::string line = "peer " + peer.address + ": " + peer.links->describe();
    const bool fell_back =
        std::any_of(peer.notes.begin(), peer.notes.end(),
                    [](const std::string& note) { return note.starts_with("no same-host"); });
    for (const std::string& note : peer.notes) line += "; " + note;
    // Same-host traffic over TCP is never silent.
    if (fell_back) ++same_host_over_tcp_;
    log_.write(fell_back ? LogLevel::warning : LogLevel::info, line);
}

void Driver::path_broke(SessionId id, const Status& reason) {
    // A peer that closes says why, and then closes its paths: its word is the better reason.
    if (const Peer* peer = find(id); peer != nullptr && peer->channel) peer->channel->hear_out();
    session_lost(id, reason);
}

void Driver::session_lost(SessionId id, const Status& reason) {
    close(id, reason);
    exchange_->sessions().closed(id, reason);
}

void Driver::send(SessionId session, const Message& message) {
    Peer* peer = find(session);
    if (peer != nullptr && peer->channel) peer->channel->send(message);
}

void Driver::close(SessionId session, const Status& reason) {
    const auto found = peers_.find(session);
    if (found == peers_.end()) return;
    const std::string& address = found->second.address;
    log_.write(LogLevel::info, "session with " +
                                   (address.empty() ? "a peer that did not greet" : address) +
                                   " ended: " + reason.message());
    tokens_.erase(found->second.link_token);
    if (found->second.channel) found->second.channel->close();
    found->second.links->close(reason);
    peers_.erase(found);
}

void Driver::authenticate(SessionId session, AuthenticationRequest request) {
    proofs_.add(session, std::move(request));
}

bool Driver::can_pull(SessionId session) {
    const Peer* peer = find(session);
    return peer != nullptr && peer->links->can_pull();
}

std::vector<PeerInfo> Driver::peers() {
    std::vector<PeerInfo> infos;
    for (const auto& [id, session] : exchange_->sessions().all()) {
        PeerInfo info;
        info.address = session.address;
        if (session.state >= Session::State::linking) info.instance = session.peer.instance.hex();
        info.state = state_name(session.state);
        info.outgoing = session.outgoing;
        if (const Peer* peer = find(id)) {
            info.path = peer->links->describe();
            info.notes = peer->notes;
            info.bytes = peer->bytes;
        }
        infos.push_back(std::move(info));
    }
    return infos;
}

}  // namespace mc
