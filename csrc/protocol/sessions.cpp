// SPDX-License-Identifier: Apache-2.0
#include "protocol/sessions.hpp"

#include <algorithm>
#include <string_view>
#include <unordered_set>
#include <utility>

namespace mc {

namespace {

// Bounds what a peer can make us keep: a worker's pools have hundreds of planes.
constexpr std::size_t kMaxPeerPlanes = 1U << 16;

// Checks the pools from number `first` on, and that those in front of them do not repeat.
Status check_pools(const std::vector<Pool>& pools, std::size_t first) {
    if (pools.size() > kMaxPools) return {Code::protocol, "the peer has too many pools"};
    std::unordered_set<std::string_view> names;
    std::size_t planes = 0;
    for (std::size_t i = 0; i < pools.size(); ++i) {
        const std::string peers_pool = "the peer's pool \"" + pools[i].name + "\"";
        if (i >= first) MC_RETURN_IF_ERROR(validate(pools[i]).with_context(peers_pool));
        if (!names.insert(pools[i].name).second)
            return {Code::protocol, peers_pool + " is named twice"};
        planes += pools[i].planes.size();
    }
    if (planes > kMaxPeerPlanes) {
        return {Code::protocol, "the peer's pools have " + std::to_string(planes) +
                                    " planes, more than " + std::to_string(kMaxPeerPlanes)};
    }
    return {};
}

Status check_hello(const Hello& hello) {
    if (hello.oldest_version > kProtocolVersion || hello.version < kOldestProtocolVersion) {
        return {Code::unsupported,
                "the peer speaks protocol versions " + std::to_string(hello.oldest_version) +
                    " to " + std::to_string(hello.version) + ", this engine " +
                    std::to_string(kOldestProtocolVersion) + " to " +
                    std::to_string(kProtocolVersion) + "; upgrade the older one"};
    }
    if (hello.plan_version != kPlanVersion) {
        return {Code::unsupported, "the peer's plan version is " +
                                       std::to_string(hello.plan_version) + ", this engine's " +
                                       std::to_string(kPlanVersion) + "; upgrade the older one"};
    }
    if (hello.instance.is_zero()) return {Code::protocol, "HELLO without an instance id"};
    return check_pools(hello.pools, 0);
}

}  // namespace

const Pool* Session::pool(const std::string& name) const {
    const auto found = std::find_if(peer.pools.begin(), peer.pools.end(),
                                    [&](const Pool& pool) { return pool.name == name; });
    return found == peer.pools.end() ? nullptr : &*found;
}

Sessions::Sessions(Actions& actions, const ProtocolOptions& options, Hello self, Listener listener)
    : actions_(actions), options_(options), self_(std::move(self)), listener_(std::move(listener)) {
    self_.recv_credits = options_.recv_credits;
}

Session& Sessions::create(const std::string& address, bool outgoing) {
    const SessionId id{next_id_++};
    Session& session = sessions_.try_emplace(id, id, outgoing, options_.keys).first->second;
    session.address = address;
    session.link_token = Token::random();
    session.opened_at = session.heard_at = session.pinged_at = actions_.time();
    watch();
    return session;
}

void Sessions::watch() {
    const Instant now = actions_.time();
    if (last_tick_ == Instant{}) last_tick_ = now;
    actions_.wake_at(now + options_.ping_interval);
}

Session& Sessions::to(const std::string& address) {
    if (const auto found = by_address_.find(address); found != by_address_.end()) {
        return sessions_.at(found->second);
    }
    Session& session = create(address, true);
    by_address_[address] = session.id;
    actions_.connect(session.id, address);
    return session;
}

SessionId Sessions::accept() {
    std::vector<const Session*> strangers;
    for (const auto& [id, session] : sessions_) {
        if (!session.outgoing && session.state < Session::State::linking)
            strangers.push_back(&session);
    }
    if (strangers.size() >= kMaxStrangers) {
        const auto oldest = std::min_element(
            strangers.begin(), strangers.end(),
            [](const Session* a, const Session* b) { return a->opened_at < b->opened_at; });
        fail(sessions_.at((*oldest)->id),
             Status(Code::resource_exhausted, "too many connections that have not greeted"));
    }
    return create("", false).id;
}

void Sessions::connected(SessionId id) {
    Session* session = find(id);
    if (session == nullptr || session->state != Session::State::connecting) return;
    session->state = Session::State::greeting;
    session->heard_at = actions_.time();
    advance(id, session->handshake.begin(actions_));
}

void Sessions::authenticated(SessionId id, const Result<Proof>& answer) {
    Session* session = find(id);
    if (session == nullptr || !session->handshake.waiting()) return;
    advance(id, session->handshake.authenticated(actions_, answer));
}

void Sessions::advance(SessionId id, const Result<Handshake::Next>& next) {
    Session* session = find(id);
    if (session == nullptr) return;
    if (!next) return fail(*session, next.status());
    switch (*next) {
        case Handshake::Next::wait: return;
        case Handshake::Next::greet: {
            Hello hello = self_;
            hello.link_token = session->link_token;
            session->pools_told = hello.pools.size();
            return advance(id, session->handshake.greet(actions_, std::move(hello)));
        }
        case Handshake::Next::accept:
            return accept_hello(*session, std::move(session->handshake.peer()));
        case Handshake::Next::done: return greeted(*session);
    }
}

void Sessions::greeted(Session& session) {
    session.greeted = true;
    tell_pools(session);
    if (session.outgoing) return;
    session.state = Session::State::ready;
    listener_.ready(session);
}

void Sessions::tell_pools(Session& session) {
    while (session.pools_told < self_.pools.size())
        actions_.send(session.id, PoolAdded{self_.pools[session.pools_told++]});
}

void Sessions::closed(SessionId id, const Status& reason) {
    const auto found = sessions_.find(id);
    if (found == sessions_.end()) return;
    Session session = std::move(found->second);
    sessions_.erase(found);
    if (const auto by = by_address_.find(session.address);
        session.outgoing && by != by_address_.end() && by->second == id) {
        by_address_.erase(by);
    }
    listener_.closed(session, reason);
}

void Sessions::close_all(const Status& reason) {
    while (!sessions_.empty()) fail(sessions_.begin()->second, reason);
}

void Sessions::add_pool(const Pool& pool) {
    self_.pools.push_back(pool);
    for (auto& [id, session] : sessions_) {
        if (session.greeted) tell_pools(session);
    }
}

const Pool* Sessions::own_pool(const std::string& name) const {
    const auto found = std::find_if(self_.pools.begin(), self_.pools.end(),
                                    [&](const Pool& pool) { return pool.name == name; });
    return found == self_.pools.end() ? nullptr : &*found;
}

Session* Sessions::find(SessionId id) {
    const auto found = sessions_.find(id);
    return found == sessions_.end() ? nullptr : &found->second;
}

void Sessions::fail(Session& session, const Status& reason) {
    const SessionId id = session.id;
    if (session.state != Session::State::connecting) {
        actions_.send(id, Bye{reason.code(), reason.message()});
    }
    actions_.close(id, reason);
    closed(id, reason);
}

void Sessions::heard(SessionId id) {
    if (Session* session = find(id)) session->heard_at = actions_.time();
}

void Sessions::set_busy(Session& session, bool busy) {
    if (!busy) {
        --session.busy;
        return;
    }
    if (!session.expectant()) {
        // Silence counts from the moment when something began to be expected.
        session.heard_at = session.pinged_at = actions_.time();
        watch();
    }
    ++session.busy;
}

bool Sessions::receive(Session& session, const Message& message) {
    session.heard_at = actions_.time();
    if (session.state < Session::State::linking) {
        if (const auto* bye = std::get_if<Bye>(&message)) {
            const Status reason(bye->code == Code::ok ? Code::peer_lost : bye->code,
                                "the peer refused: " + bye->reason);
            actions_.close(session.id, reason);
            closed(session.id, reason);
        } else {
            advance(session.id, session.handshake.receive(actions_, message));
        }
    } else if (std::holds_alternative<Hello>(message) ||
               std::holds_alternative<Challenge>(message) ||
               std::holds_alternative<Proof>(message)) {
        fail(session, Status(Code::protocol, "an unexpected " + std::string(name_of(message))));
    } else if (const auto* added = std::get_if<PoolAdded>(&message)) {
        std::vector<Pool>& pools = session.peer.pools;
        pools.push_back(added->pool);
        if (const Status valid = check_pools(pools, pools.size() - 1); !valid) {
            fail(session, Status(Code::protocol, "POOL: " + valid.message()));
        }
    } else if (const auto* ping = std::get_if<Ping>(&message)) {
        actions_.send(session.id, Pong{ping->value});
    } else if (std::holds_alternative<Pong>(message)) {
        // heard_at says it all
    } else if (const auto* bye = std::get_if<Bye>(&message)) {
        const Status reason(bye->code == Code::ok ? Code::peer_lost : bye->code,
                            "the peer closed the session: " + bye->reason);
        actions_.close(session.id, reason);
        closed(session.id, reason);
    } else {
        return false;
    }
    return true;
}

void Sessions::accept_hello(Session& session, Hello hello) {
    if (const Status checked = check_hello(hello); !checked) {
        fail(session, checked);
        return;
    }
    // A new instance at an address means that the old one is gone, whether or not its connection
    // has noticed: its grants end now.
    std::vector<SessionId> stale;
    for (const auto& [id, other] : sessions_) {
        if (id != session.id && other.state >= Session::State::linking &&
            other.peer.address == hello.address && other.peer.instance != hello.instance) {
            stale.push_back(id);
        }
    }
    for (const SessionId id : stale) {
        if (Session* old = find(id)) {
            fail(*old,
                 Status(Code::peer_restarted, "the engine at " + hello.address + " was restarted"));
        }
    }
    session.peer = std::move(hello);
    if (!session.outgoing) session.address = session.peer.address;
    session.state = Session::State::linking;
    // Our HELLO lets the connecting side make links, and these must find a session that knows whom
    // they belong to: so it goes after link().
    actions_.link(session);
    if (!session.outgoing) advance(session.id, Handshake::Next::greet);
}

void Sessions::linked(SessionId id) {
    Session* session = find(id);
    if (session == nullptr || session->state != Session::State::linking || !session->outgoing)
        return;
    session->state = Session::State::ready;
    session->heard_at = actions_.time();
    listener_.ready(*session);
}

void Sessions::tick(Instant now) {
    // A gap in which this process did not run (stopped, starved) says nothing about the peers.
    const Duration pause =
        last_tick_ == Instant{} ? Duration{} : now - last_tick_ - options_.ping_interval;
    if (pause > options_.ping_interval) {
        for (auto& [id, session] : sessions_) {
            session.heard_at = std::min(now, session.heard_at + pause);
            session.opened_at = std::min(now, session.opened_at + pause);
        }
    }
    last_tick_ = {};

    std::vector<std::pair<SessionId, Status>> lost;
    bool watching = false;
    for (auto& [id, session] : sessions_) {
        if (session.state != Session::State::ready) {
            watching = true;
            if (now - session.opened_at >= options_.hello_timeout) {
                lost.emplace_back(id, Status(Code::unreachable,
                                             "no handshake with " +
                                                 (session.address.empty() ? "a connecting peer"
                                                                          : session.address) +
                                                 " within " + to_text(options_.hello_timeout) +
                                                 "; is there an engine, and not another server?"));
            } else {
                actions_.wake_at(session.opened_at + options_.hello_timeout);
            }
        } else if (session.expectant()) {
            watching = true;
            const Instant patience_ends = session.heard_at + options_.peer_timeout;
            if (now >= patience_ends) {
                lost.emplace_back(
                    id, Status(Code::peer_lost, "no sign of life from " + session.address +
                                                    " for " + to_text(now - session.heard_at)));
                continue;
            }
            actions_.wake_at(patience_ends);
            if (now - session.pinged_at >= options_.ping_interval) {
                session.pinged_at = now;
                actions_.send(id, Ping{static_cast<std::uint64_t>(id.value)});
            }
        }
    }
    for (const auto& [id, reason] : lost) {
        if (Session* session = find(id)) fail(*session, reason);
    }
    if (watching) watch();
}

}  // namespace mc
