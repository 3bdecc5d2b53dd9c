// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "protocol/receivers.hpp"
#include "protocol/senders.hpp"
#include "protocol/sessions.hpp"

namespace mc {

// The protocol of one engine: all its sessions, sends and recvs, as a state machine that is fed
// local calls, messages, answers to its actions and the time. Not thread-safe: one thread feeds it.
class Exchange {
  public:
    Exchange(Actions& actions, ProtocolOptions options, Hello self);

    Sessions& sessions() { return sessions_; }
    Senders& senders() { return senders_; }
    Receivers& receivers() { return receivers_; }

    // One message of a peer. A message that breaks the rules ends the session and nothing else.
    void receive(SessionId id, const Message& message);
    // The answer to Actions::authenticate.
    void authenticated(SessionId id, const Result<Proof>& answer);
    void malformed(SessionId id, const Status& reason);
    // Whether the peer's handshake is over: until then its frames are at most kMaxGreetingBytes.
    bool greeted(SessionId id);
    void tick(Instant now);

  private:
    const ProtocolOptions options_;
    Sessions sessions_;
    Senders senders_;
    Receivers receivers_;
};

}  // namespace mc
