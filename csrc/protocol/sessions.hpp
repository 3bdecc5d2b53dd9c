// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <optional>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "protocol/actions.hpp"

namespace mc {

// One connection to a peer, from the handshake to its end.
struct Session {
    enum class State : std::uint8_t {
        connecting,
        greeting,  // our HELLO is sent
        linking,   // both HELLOs are there; data paths are set up
        ready,
    };

    SessionId id;
    State state = State::connecting;
    bool outgoing = false;
    std::string address;  // the peer's, as asked for (outgoing) or announced (incoming)
    Hello peer;           // valid when ready; grows with POOL
    Token link_token;     // ours: lanes and same-host links that present it belong here
    Instant opened_at;
    Instant heard_at;  // any sign of life
    Instant pinged_at;
    unsigned busy = 0;  // transfers that wait for the peer: while > 0 it is pinged
    std::unordered_set<GrantId>
        open_grants;  // RECVs and READs of ours without an end: at most the peer's credits
    std::deque<Message> waiting_grants;  // RECVs and READs that wait for credit
    std::uint32_t peer_grants_open =
        0;  // RECVs and READs of the peer without an end: at most our credits
    std::uint32_t peer_writes_open = 0;                             // likewise for WRITEs
    std::unordered_map<PlanId, Plan> plans;                         // the peer's, by PLAN
    std::unordered_map<PlanId, std::shared_ptr<const Walk>> walks;  // of our pools, by those plans
    std::uint64_t next_plan = 1;

    [[nodiscard]] const Pool* pool(const std::string& name) const;
};

// Opens sessions, greets, watches for silence, closes. Knows nothing of transfers but that a
// session is busy.
class Sessions {
  public:
    // Told to the other halves of the protocol.
    struct Listener {
        std::function<void(Session&)> ready;
        std::function<void(Session&, const Status&)> closed;  // the session is gone after the call
    };

    Sessions(Actions& actions, const ProtocolOptions& options, Hello self, Listener listener);

    Session& to(const std::string& address);  // present or new outgoing session
    SessionId accept();
    void connected(SessionId id);
    void linked(SessionId id);
    void closed(SessionId id, const Status& reason);
    void close_all(const Status& reason);

    void add_pool(const Pool& pool);
    [[nodiscard]] const Pool* own_pool(const std::string& name) const;
    [[nodiscard]] const Hello& self() const { return self_; }

    Session* find(SessionId id);
    // A peer broke the rules or cannot be served: says BYE and closes.
    void fail(Session& session, const Status& reason);
    void heard(SessionId id);
    void set_busy(Session& session, bool busy);

    // Handles HELLO, POOL, PING, PONG, BYE. False: the message is not one of them.
    bool receive(Session& session, const Message& message);
    void tick(Instant now);
    [[nodiscard]] const std::unordered_map<SessionId, Session>& all() const { return sessions_; }

  private:
    Session& create(const std::string& address, bool outgoing);
    void receive_hello(Session& session, const Hello& hello);

    Actions& actions_;
    const ProtocolOptions& options_;
    Hello self_;
    Listener listener_;
    std::unordered_map<SessionId, Session> sessions_;
    std::unordered_map<std::string, SessionId> by_address_;  // outgoing
    std::uint64_t next_id_ = 1;
    Instant last_tick_{};
};

}  // namespace mc
