# SPDX-License-Identifier: Apache-2.0
"""Mistakes that the simulator of the protocol has to find; planted by tools/mutate.py."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Mutation:
    """A mistake in one source.

    Attributes:
        name: What goes wrong.
        file: Below csrc/protocol/. Not a header, after which everything would be built anew.
        old: Text that occurs there exactly once.
        new: What stands in its place.
    """

    name: str
    file: str
    old: str
    new: str


MUTATIONS = (
    # --- Ends of grants -----------------------------------------------------------------------
    Mutation(
        "pages are handed back on CANCEL, while they may still be written",
        "receivers.cpp",
        "if (!recv.closing || !recv.grants.empty()) return;",
        "if (!recv.closing) return;",
    ),
    Mutation(
        "CANCELLED and FAIL are said while shipments are under way",
        "senders_shipping.cpp",
        "        if (grant.in_flight > 0)\n            return;  // FAIL",
        "        // FAIL",
    ),
    Mutation(
        "CANCEL is answered although the grant goes on",
        "senders_messages.cpp",
        "grant->second.cancelled = true;",
        "actions_.send(session.id, Cancelled{cancel->grant});",
    ),
    Mutation(
        "a send's pages are handed back while they may still be read",
        "senders.cpp",
        "if (!send.closing || !send.source_is_closed || !send.grants.empty()) return;",
        "if (!send.closing || !send.grants.empty()) return;",
    ),
    Mutation(
        "a recv that failed does not cancel its other grants",
        "receivers.cpp",
        "if (never_asked == 0 && failed_by_sender != grant_id)",
        "if (never_asked == 0 && !failed_by_sender)",
    ),
    Mutation(
        "RECEIVED is said twice",
        "receivers_messages.cpp",
        "    actions_.send(grant.session, Received{grant.id});\n",
        "    actions_.send(grant.session, Received{grant.id});\n"
        "    actions_.send(grant.session, Received{grant.id});\n",
    ),
    Mutation(
        "a send that ended keeps its tag",
        "senders.cpp",
        "        std::erase(tagged->second, id);\n"
        "        if (tagged->second.empty()) by_tag_.erase(tagged);\n"
        "    }\n"
        "    remember_end(send);",
        "        std::erase(tagged->second, id);\n    }\n    remember_end(send);",
    ),
    # --- What is shipped ----------------------------------------------------------------------
    Mutation(
        "DONE is said before the last span",
        "senders_shipping.cpp",
        "if (!ship_ready(grant, send) || grant.in_flight > 0) return;",
        "if (!ship_ready(grant, send)) return;",
    ),
    Mutation(
        "DONE counts although lanes have not ended",
        "receivers_messages.cpp",
        "if (!grant.done || grant.pulls > 0 || grant.lanes_ended < grant.done->lanes) return;",
        "if (!grant.done || grant.pulls > 0) return;",
    ),
    Mutation(
        "tokens are shipped before they are ready",
        "senders_shipping.cpp",
        "        if (send.ready < limit) limit = send.ready - send.ready % size;\n",
        "",
    ),
    Mutation(
        "the receiver of another request takes the send",
        "senders_messages.cpp",
        "const bool same_request = send.request == recv.request &&",
        "const bool same_request =",
    ),
    Mutation(
        "digests are compared and the outcome is ignored",
        "receivers_messages.cpp",
        "    if (outcome) {\n        deliver(found->second);",
        "    if (outcome || !outcome) {\n        deliver(found->second);",
    ),
    # --- Rewinds ------------------------------------------------------------------------------
    Mutation(
        "a rewind does not begin a new epoch",
        "senders.cpp",
        "    send->epoch = epoch;\n",
        "    (void)epoch;\n",
    ),
    Mutation(
        "REWOUND is said while bytes of the old epoch are under way",
        "receivers_messages.cpp",
        "if (grant.pulls > 0 || grant.lanes_ended < lanes) return;",
        "if (grant.pulls > 0) return;",
    ),
    Mutation(
        "REWIND is said while bytes of the old epoch are under way",
        "senders_shipping.cpp",
        "if (grant.in_flight > 0 || grant.rewinding_to) return;",
        "if (grant.rewinding_to) return;",
    ),
    Mutation(
        "a rewind that a read hears of first fails the recv",
        "receivers_messages.cpp",
        "    } else if (outcome.code() == Code::aborted) {\n        grant.overtaken",
        "    } else if (false) {\n        grant.overtaken",
    ),
    # --- Time ---------------------------------------------------------------------------------
    Mutation(
        "the deadline is not armed at the sender",
        "senders.cpp",
        "            expired.push_back(key);\n",
        "            continue;\n",
    ),
    Mutation(
        "the deadline is not armed at the receiver",
        "receivers.cpp",
        "            late.push_back(id);\n",
        "            continue;\n",
    ),
    Mutation(
        "a finished send waits for ever",
        "senders.cpp",
        "            late.push_back(id);\n",
        "            continue;\n",
    ),
    Mutation(
        "a parked RECV never expires",
        "senders.cpp",
        "        if (now < it->expires) {\n",
        "        if (now < it->expires || true) {\n",
    ),
    Mutation(
        "the deadline of a parked RECV starts anew when its tag comes",
        "senders_messages.cpp",
        "        it->recv.remaining_ms = remaining_ms(it->deadline, now);\n",
        "",
    ),
    # --- Sessions -----------------------------------------------------------------------------
    Mutation(
        "the instance id is ignored: what a restarted peer was granted lives on",
        "sessions.cpp",
        "other.peer.address == hello.address && other.peer.instance != hello.instance",
        "false",
    ),
    Mutation(
        "the instance id is ignored: every second session of a peer ends the first",
        "sessions.cpp",
        "other.peer.address == hello.address && other.peer.instance != hello.instance",
        "other.peer.address == hello.address",
    ),
    Mutation(
        "a silent peer is never declared lost",
        "sessions.cpp",
        "if (now >= patience_ends) {",
        "if (now >= patience_ends && false) {",
    ),
    Mutation(
        "a lost session does not end the peer's grants",
        "senders_messages.cpp",
        "if (key.session == session.id) ended.push_back(key);",
        "if (key.session == session.id && false) ended.push_back(key);",
    ),
    Mutation(
        "a lost session does not end the recvs that wait for it",
        "receivers.cpp",
        "if (!sender.ended) hit.push_back(id);",
        "if (!sender.ended && false) hit.push_back(id);",
    ),
    Mutation(
        "a lost session leaves its parked RECVs",
        "senders_messages.cpp",
        "[&](const Parked& parked) { return parked.session == session.id; }",
        "[&](const Parked&) { return false; }",
    ),
    # --- Credits ------------------------------------------------------------------------------
    Mutation(
        "CANCELLED does not return the credit",
        "receivers_messages.cpp",
        "        return_credit(session, cancelled->grant);\n",
        "",
    ),
    Mutation(
        "a peer's credits are exceeded",
        "receivers.cpp",
        "if (session.open_grants.size() < session.peer.recv_credits) {",
        "if (session.open_grants.size() <= session.peer.recv_credits) {",
    ),
)
