// SPDX-License-Identifier: Apache-2.0
#include "protocol/exchange.hpp"

#include <utility>

namespace mc {

Exchange::Exchange(Actions& actions, ProtocolOptions options, Hello self)
    : options_(options),
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
    if (session == nullptr || sessions_.receive(*session, message)) return;
    if (!senders_.receive(*session, message)) (void)receivers_.receive(*session, message);
}

void Exchange::malformed(SessionId id, const Status& reason) {
    if (Session* session = sessions_.find(id)) sessions_.fail(*session, reason);
}

void Exchange::tick(Instant now) {
    sessions_.tick(now);
    senders_.tick(now);
    receivers_.tick(now);
}

}  // namespace mc
