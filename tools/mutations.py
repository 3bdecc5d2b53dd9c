# SPDX-License-Identifier: Apache-2.0
"""Mistakes in the protocol that its simulator has to find; planted by tools/mutate.py."""

from __future__ import annotations

from mutation import Mutation

SIMULATED = (
    # --- Ends of grants -----------------------------------------------------------------------
    Mutation(
        "pages are handed back on CANCEL, while they may still be written",
        "protocol/receivers.cpp",
        "if (!recv.closing || !recv.grants.empty()) return;",
        "if (!recv.closing) return;",
        quick=True,
    ),
    Mutation(
        "CANCELLED and FAIL are said while shipments are under way",
        "protocol/senders_shipping.cpp",
        "        if (grant.in_flight > 0)\n            return;  // FAIL",
        "        // FAIL",
    ),
    Mutation(
        "CANCEL is answered although the grant goes on",
        "protocol/senders_messages.cpp",
        "grant->second.cancelled = true;",
        "actions_.send(session.id, Cancelled{cancel->grant});",
    ),
    Mutation(
        "a send's pages are handed back while they may still be read",
        "protocol/senders.cpp",
        "if (!send.closing || !send.source_is_closed || !send.grants.empty()) return;",
        "if (!send.closing || !send.grants.empty()) return;",
    ),
    Mutation(
        "a recv that failed does not cancel its other grants",
        "protocol/receivers.cpp",
        "if (never_asked == 0 && failed_by_sender != grant_id)",
        "if (never_asked == 0 && !failed_by_sender)",
    ),
    Mutation(
        "RECEIVED is said twice",
        "protocol/receivers_messages.cpp",
        "    actions_.send(grant.session, Received{grant.id});\n",
        "    actions_.send(grant.session, Received{grant.id});\n"
        "    actions_.send(grant.session, Received{grant.id});\n",
    ),
    Mutation(
        "a send that ended keeps its tag",
        "protocol/senders.cpp",
        "        std::erase(tagged->second, id);\n"
        "        if (tagged->second.empty()) by_tag_.erase(tagged);\n"
        "    }\n"
        "    remember_end(send);",
        "        std::erase(tagged->second, id);\n    }\n    remember_end(send);",
    ),
    # --- What is shipped ----------------------------------------------------------------------
    Mutation(
        "DONE is said before the last span",
        "protocol/senders_shipping.cpp",
        "if (!ship_ready(grant, send) || grant.in_flight > 0) return;",
        "if (!ship_ready(grant, send)) return;",
        quick=True,
    ),
    Mutation(
        "DONE counts although lanes have not ended",
        "protocol/receivers_messages.cpp",
        "if (!grant.done || grant.pulls > 0 || grant.lanes_ended < grant.done->lanes) return;",
        "if (!grant.done || grant.pulls > 0) return;",
    ),
    Mutation(
        "tokens are shipped before they are ready",
        "protocol/senders_shipping.cpp",
        "        if (send.ready < limit) limit = send.ready - send.ready % size;\n",
        "",
    ),
    Mutation(
        "the receiver of another request takes the send",
        "protocol/senders_messages.cpp",
        "const bool same_request = send.request == recv.request &&",
        "const bool same_request =",
    ),
    Mutation(
        "digests are compared and the outcome is ignored",
        "protocol/receivers_messages.cpp",
        "    if (outcome) {\n        deliver(found->second);",
        "    if (outcome || !outcome) {\n        deliver(found->second);",
    ),
    # --- Rewinds ------------------------------------------------------------------------------
    Mutation(
        "a rewind does not begin a new epoch",
        "protocol/senders.cpp",
        "    send->epoch = epoch;\n",
        "    (void)epoch;\n",
    ),
    Mutation(
        "REWOUND is said while bytes of the old epoch are under way",
        "protocol/receivers_messages.cpp",
        "if (grant.pulls > 0 || grant.lanes_ended < lanes) return;",
        "if (grant.pulls > 0) return;",
        quick=True,
    ),
    Mutation(
        "REWIND is said while bytes of the old epoch are under way",
        "protocol/senders_shipping.cpp",
        "if (grant.in_flight > 0 || grant.rewinding_to) return;",
        "if (grant.rewinding_to) return;",
    ),
    Mutation(
        "a rewind that a read hears of first fails the recv",
        "protocol/receivers_messages.cpp",
        "    } else if (outcome.code() == Code::aborted) {\n        grant.overtaken",
        "    } else if (false) {\n        grant.overtaken",
    ),
    # --- Time ---------------------------------------------------------------------------------
    Mutation(
        "the deadline is not armed at the sender",
        "protocol/senders.cpp",
        "            expired.push_back(key);\n",
        "            continue;\n",
        quick=True,
    ),
    Mutation(
        "the deadline is not armed at the receiver",
        "protocol/receivers.cpp",
        "            late.push_back(id);\n",
        "            continue;\n",
    ),
    Mutation(
        "a finished send waits for ever",
        "protocol/senders.cpp",
        "            late.push_back(id);\n",
        "            continue;\n",
    ),
    Mutation(
        "a parked RECV never expires",
        "protocol/senders.cpp",
        "        if (now < it->expires) {\n",
        "        if (now < it->expires || true) {\n",
    ),
    Mutation(
        "the deadline of a parked RECV starts anew when its tag comes",
        "protocol/senders_messages.cpp",
        "        it->recv.remaining_ms = remaining_ms(it->deadline, now);\n",
        "",
    ),
    # --- Sessions -----------------------------------------------------------------------------
    Mutation(
        "the instance id is ignored: what a restarted peer was granted lives on",
        "protocol/sessions.cpp",
        "other.peer.address == hello.address && other.peer.instance != hello.instance",
        "false",
        quick=True,
    ),
    Mutation(
        "the instance id is ignored: every second session of a peer ends the first",
        "protocol/sessions.cpp",
        "other.peer.address == hello.address && other.peer.instance != hello.instance",
        "other.peer.address == hello.address",
    ),
    Mutation(
        "a silent peer is never declared lost",
        "protocol/sessions.cpp",
        "if (now >= patience_ends) {",
        "if (now >= patience_ends && false) {",
    ),
    Mutation(
        "a lost session does not end the peer's grants",
        "protocol/senders_messages.cpp",
        "if (key.session == session.id) ended.push_back(key);",
        "if (key.session == session.id && false) ended.push_back(key);",
    ),
    Mutation(
        "a lost session does not end the recvs that wait for it",
        "protocol/receivers.cpp",
        "if (!sender.ended) hit.push_back(id);",
        "if (!sender.ended && false) hit.push_back(id);",
    ),
    Mutation(
        "a lost session leaves its parked RECVs",
        "protocol/senders_messages.cpp",
        "[&](const Parked& parked) { return parked.session == session.id; }",
        "[&](const Parked&) { return false; }",
    ),
    # --- Credits ------------------------------------------------------------------------------
    Mutation(
        "CANCELLED does not return the credit",
        "protocol/receivers_messages.cpp",
        "        return_credit(session, cancelled->grant);\n",
        "",
    ),
    Mutation(
        "a peer's credits are exceeded",
        "protocol/receivers.cpp",
        "if (session.open_grants.size() < session.peer.recv_credits) {",
        "if (session.open_grants.size() <= session.peer.recv_credits) {",
    ),
)
