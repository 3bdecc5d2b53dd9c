// SPDX-License-Identifier: Apache-2.0
#include "protocol/exchange.hpp"

#include <utility>

namespace mc {

namespace {

// What a peer may send while its handshake waits for the authentication. Honest ones have pools to
// add at most.
constexpr std::size_t kMaxHeld = 64;
constexpr std::size_t kMaxHeldBytes = kMaxGreetingBytes;

bool hold_back(Session& session, const Message& message) {
    Bytes frame;
    encode(message, frame);
    session.held_bytes += frame.size();
    if (session.held.size() >= kMaxHeld || session.held_bytes > kMaxHeldBytes) return false;
    session.held.push_back(message);
    return true;
}

}  // namespace

Exchange::Exchange(Actions& actions, ProtocolOptions options, Hello self)
    : options_(std::move(options)),
      sessions_(actions, options_, std::move(self),
                {[this](Session& session) {
                     senders_.session_ready(session);
                     receivers_.session_ready(session);
                 },
                 [this](Session& session, const Status& reason) {
                     senders_.session_closed(session, reason);
                     receivers_.session_closed(session, reason);
                 }}),
      senders_(actions, options_, sessions_),
      receivers_(actions, options_, sessions_) {}

void Exchange::receive(SessionId id, const Message& message) {
    Session* session = sessions_.find(id);
    if (session == nullptr) return;
    if (session->handshake.waiting() && !std::holds_alternative<Bye>(message)) {
        if (!hold_back(*session, message))
            sessions_.fail(*session, Status(Code::protocol, "too much during the handshake"));
        return;
    }
    if (sessions_.receive(*session, message)) return;
    if (!senders_.receive(*session, message)) (void)receivers_.receive(*session, message);
}

void Exchange::authenticated(SessionId id, const Result<Proof>& answer) {
    sessions_.authenticated(id, answer);
    for (Session* session = sessions_.find(id);
         session != nullptr && !session->handshake.waiting() && !session->held.empty();
         session = sessions_.find(id)) {
        const Message next = std::move(session->held.front());
        session->held.pop_front();
        receive(id, next);
    }
}

void Exchange::malformed(SessionId id, const Status& reason) {
    Session* session = sessions_.find(id);
    if (session == nullptr) return;
    sessions_.fail(*session, greeted(id) ? reason
                                         : reason.with_context("the peer is no engine, or one of "
                                                               "an incompatible version"));
}

bool Exchange::greeted(SessionId id) {
    const Session* session = sessions_.find(id);
    return session != nullptr && session->state >= Session::State::linking;
}

void Exchange::tick(Instant now) {
    sessions_.tick(now);
    senders_.tick(now);
    receivers_.tick(now);
}

}  // namespace mc
