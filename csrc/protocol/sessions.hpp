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
#include "protocol/handshake.hpp"

namespace mc {

// One connection to a peer, from the handshake to its end.
struct Session {
    enum class State : std::uint8_t {
        connecting,
        greeting,  // connected; the peer's HELLO is awaited, and where there are keys its proof
        linking,   // the peer's HELLO is there; data paths are set up
        ready,
    };

    Session(SessionId number, bool connects, const std::vector<Token>& keys)
        : id(number), outgoing(connects), handshake(number, connects, keys) {}

    SessionId id;
    State state = State::connecting;
    bool outgoing;
    Handshake handshake;
    bool greeted = false;        // our HELLO is sent
    std::size_t pools_told = 0;  // of our own pools, in HELLO and POOL
    std::deque<Message> held;    // came while the handshake waited for the authentication
    std::size_t held_bytes = 0;  // in all, as frames
    std::string address;         // the peer's, as asked for (outgoing) or announced (incoming)
    Hello peer;                  // valid when ready; grows with POOL
    Token link_token;            // ours: lanes and same-host links that present it belong here
    Instant opened_at;
    Instant heard_at;  // any sign of life
    Instant pinged_at;
    unsigned busy = 0;  // transfers that wait for the peer

    // Ours at the peer, without an end: at most the peer's credits of each kind. The rest waits.
    std::unordered_set<GrantId> open_grants;  // RECVs and READs
    std::deque<Message> waiting_grants;
    std::unordered_set<TransferId> open_writes;
    std::deque<TransferId> waiting_writes;

    // The peer's here, without an end: at most our credits of each kind.
    std::unordered_set<GrantId> peer_grants;  // RECVs and READs
    std::unordered_set<GrantId> peer_writes;
    std::size_t peer_parked_ranges = 0;  // of RECVs whose tag nobody has announced

    // How the peer's pools take from ours, as it announced.
    struct PeerPlan {
        std::string pool;
        std::shared_ptr<const Walk> walk;
    };
    std::unordered_map<PlanId, PeerPlan> peer_plans;
    std::size_t peer_plan_pairs = 0;
    std::uint64_t next_plan = 1;

    [[nodiscard]] const Pool* pool(const std::string& name) const;
    // Whether an answer of the peer is awaited, be it to a CANCEL: then it is pinged.
    [[nodiscard]] bool expectant() const {
        return busy > 0 || !open_grants.empty() || !open_writes.empty() || !peer_writes.empty();
    }
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
    void authenticated(SessionId id, const Result<Proof>& answer);
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

    // Handles the handshake, POOL, PING, PONG, BYE. False: the message is not one of them.
    bool receive(Session& session, const Message& message);
    void tick(Instant now);
    [[nodiscard]] const std::unordered_map<SessionId, Session>& all() const { return sessions_; }

  private:
    // Sessions that have been accepted and not greeted; the oldest makes room for the next.
    static constexpr std::size_t kMaxStrangers = 1024;

    Session& create(const std::string& address, bool outgoing);
    void advance(SessionId id, const Result<Handshake::Next>& next);
    void greeted(Session& session);
    void accept_hello(Session& session, Hello hello);
    void tell_pools(Session& session);
    void watch();  // from now on ticks come, and gaps between them count

    Actions& actions_;
    const ProtocolOptions& options_;
    Hello self_;
    Listener listener_;
    std::unordered_map<SessionId, Session> sessions_;
    std::unordered_map<std::string, SessionId> by_address_;  // outgoing
    std::uint64_t next_id_ = 1;
    Instant last_tick_{};  // zero while there is nobody to watch
};

}  // namespace mc
