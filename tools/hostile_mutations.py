# SPDX-License-Identifier: Apache-2.0
"""Checks of what peers say that are left out: each is missed by the tests it was made for."""

from __future__ import annotations

from mutation import Mutation

HOSTILE = (
    # --- The handshake ------------------------------------------------------------------------
    Mutation(
        "proofs are not checked",
        "protocol/handshake.cpp",
        "{key_, statement(!connects_), proof}",
        "{key_, statement(!connects_), std::nullopt}",
        (
            "WithoutTheKey.NothingIsToldAndNothingBelieved",
            "WithoutTheKey.APeerThatIsConnectedToLearnsNothing",
            "HandshakeTest.AKeysIdIsNotTheKey",
        ),
        quick=True,
    ),
    Mutation(
        "a proof does not cover HELLO",
        "protocol/handshake.cpp",
        "{ encode(message, transcript_); }",
        "{ if (!std::holds_alternative<Hello>(message)) encode(message, transcript_); }",
        ("InTheMiddle.SwappedPoolsAreNoticed", "InTheMiddle.AnOlderVersionCannotBeForced"),
        quick=True,
    ),
    Mutation(
        "the accepting side's nonce is always the same",
        "protocol/handshake.cpp",
        "challenge_ = Challenge{Token::random(), {key_}};",
        "challenge_ = Challenge{Token{}, {key_}};",
        ("InTheMiddle.WhatWasHeardOnceCannotBeReplayed",),
    ),
    Mutation(
        "peers without proof may say as many messages as they like",
        "protocol/exchange.cpp",
        "session.held.size() >= kMaxHeld",
        "false",
        ("WithoutTheKey.AFloodDuringTheHandshakeEndsIt",),
    ),
    Mutation(
        "peers without proof may say messages of any length",
        "protocol/exchange.cpp",
        "session.held_bytes > kMaxHeldBytes",
        "false",
        ("WithoutTheKey.ManyBytesDuringTheHandshakeEndIt",),
    ),
    Mutation(
        "connections that say nothing are all kept",
        "protocol/sessions.cpp",
        "if (strangers.size() >= kMaxStrangers) {",
        "if (strangers.size() >= kMaxStrangers && false) {",
        ("WithoutTheKey.ConnectionsThatSayNothingKeepNobodyOut",),
    ),
    # --- Grants of others, and twice ----------------------------------------------------------
    Mutation(
        "senders may speak of any grant",
        "protocol/receivers_messages.cpp",
        "found->second.session != session || !found->second.asked ||",
        "(false && session) || !found->second.asked ||",
        (
            "HostileSender.SpeaksOfGrantsThatAreNotItsOwn",
            "HostileSender.LaneEndsOfAnotherPeerDoNotCount",
        ),
        quick=True,
    ),
    Mutation(
        "senders may speak of grants before they are asked for",
        "protocol/receivers_messages.cpp",
        "found->second.session != session || !found->second.asked ||",
        "found->second.session != session ||",
        ("HostileSender.SpeaksOfGrantsThatItWasNotAskedFor",),
    ),
    Mutation(
        "receivers may cancel any grant",
        "protocol/senders_messages.cpp",
        "if (const auto grant = grants_.find(key); grant != grants_.end()) {\n"
        "            grant->second.cancelled = true;",
        "if (const auto grant = std::find_if(\n"
        "                grants_.begin(), grants_.end(),\n"
        "                [&](const auto& entry) { return entry.first.grant == key.grant; });\n"
        "            grant != grants_.end()) {\n"
        "            grant->second.cancelled = true;",
        (
            "HostileReceiver.SpeaksOfGrantsThatAreNotItsOwn",
            "HostileAsker.TheNumberOfAnothersGrantIsItsOwn",
        ),
        quick=True,
    ),
    Mutation(
        "RECEIVED ends a grant that is not done",
        "protocol/senders_messages.cpp",
        "grant != grants_.end() && grant->second.done_sent) {",
        "grant != grants_.end()) {",
        ("HostileReceiver.ReceivedBeforeDoneEndsNothing",),
    ),
    Mutation(
        "a grant's number may be used twice",
        "protocol/senders_messages.cpp",
        "if (grants_.contains({session.id, grant}) || session.peer_grants.contains(grant)) {",
        "if (grants_.contains({session.id, grant}) && false) {",
        (
            "HostileReceiver.RecvRepeatsAParkedGrant",
            "HostileReceiver.RecvRepeatsAMatchedGrant",
            "HostileReceiver.ReadRepeatsAParkedGrant",
        ),
        quick=True,
    ),
    Mutation(
        "WRITE_GRANT may use a grant's number again",
        "protocol/senders_messages.cpp",
        "if (grants_.contains({session.id, granted.grant}) ||\n"
        "        session.peer_grants.contains(granted.grant)) {",
        "if (false) {",
        (
            "HostileWriteTarget.GrantsWithTheNumberOfAParkedRecv",
            "HostileWriteTarget.GrantsWithTheNumberOfAGrantInUse",
        ),
    ),
    Mutation(
        "a write is granted before it was asked for",
        "protocol/senders_messages.cpp",
        "!session.open_writes.contains(granted.write)) {",
        "false) {",
        ("HostileWriteTarget.GrantsAWriteThatWaitsForCredit",),
    ),
    Mutation(
        "grants do not expire",
        "protocol/senders.cpp",
        "            expired.push_back(key);\n",
        "            continue;\n",
        ("HostileAsker.AfterItsGrantExpired",),
    ),
    Mutation(
        "what was granted does not expire",
        "protocol/receivers.cpp",
        "            late.push_back(id);\n",
        "            continue;\n",
        ("HostileProvider.AfterItsGrantExpired",),
    ),
    # --- Ranges, offsets, counts --------------------------------------------------------------
    Mutation(
        "READY may name any tokens",
        "protocol/receivers_messages.cpp",
        "if (intersect(part.wanted, {&ready.tokens, 1}) != std::vector{ready.tokens})",
        "if (false)",
        ("HostileSender.ReadyOutOfRange",),
    ),
    Mutation(
        "READYs may name the same bytes again and again",
        "protocol/receivers_messages.cpp",
        "if (bytes == 0 || bytes > grant.expected - grant.offered)",
        "if (bytes == 0)",
        ("HostileSender.MoreReadysThanTheGrantHasBytes",),
    ),
    Mutation(
        "DONE is believed",
        "protocol/receivers_messages.cpp",
        "if (pushed != grant.done->bytes || pushed + grant.pulled != grant.expected) {",
        "if (pushed + grant.pulled > grant.expected) {",
        (
            "HostileSender.DoneBeforeAnythingCame",
            "HostileSender.DoneClaimsBytesThatDidNotCome",
            "HostileProvider.DoneOfMoreBytesThanThereAre",
        ),
        quick=True,
    ),
    Mutation(
        "lanes are counted modulo 2^32",
        "protocol/receivers_messages.cpp",
        "    const std::uint64_t lanes =\n        std::uint64_t{grant.rewind->lanes} +",
        "    const std::uint32_t lanes =\n        grant.rewind->lanes +",
        ("HostileProvider.LanesWhoseSumWrapsAround",),
    ),
    Mutation(
        "REWIND may go back",
        "protocol/receivers_messages.cpp",
        "if (grant.rewind || rewind.epoch <= grant.epoch) {",
        "if (grant.rewind) {",
        ("HostileSender.RewindReplays", "HostileProvider.TheLastEpochIsTheLast"),
    ),
    Mutation(
        "REWOUND may name any epoch",
        "protocol/senders_messages.cpp",
        "if (rewound.epoch != *grant.rewinding_to) {",
        "if (rewound.epoch != *grant.rewinding_to && false) {",
        ("HostileReceiver.RewoundToAnotherEpochThanAskedFor",),
    ),
    Mutation(
        "lengths of a WRITE are not checked",
        "protocol/receivers_messages.cpp",
        "    Status allowed = validate(write.destination);\n"
        "    if (allowed) allowed = validate(write.source);\n",
        "    Status allowed;\n",
        ("HostileSender.WriteWhoseLengthsWrapAround",),
    ),
    Mutation(
        "PLAN may name any plane",
        "protocol/senders_messages.cpp",
        "const Status valid = validate(plan.match, *pool, Side::source);",
        "const Status valid;",
        ("HostileReceiver.PlansThatDoNotFit",),
    ),
    Mutation(
        "RECV may name any plan",
        "protocol/senders_messages.cpp",
        "return !session.peer_plans.contains(part.plan) || part.wanted.empty();",
        "return part.wanted.empty();",
        ("HostileReceiver.RecvOfAnUnknownPlan", "HostileAsker.AnothersPlanIsUnknown"),
    ),
    Mutation(
        "batches may lie anywhere",
        "transport/arrival.cpp",
        "if (header_.offset > bytes || header_.length > bytes - header_.offset) {",
        "if (header_.offset > bytes && header_.length > bytes) {",
        (
            "HostileStream.OffsetsBeyondThePagesAreDropped",
            "HostileRing.AnOffsetBeyondThePagesIsDroppedAndNothingElse",
            "*PushContract.BytesBeyondTheSliceAreDropped*",
        ),
    ),
    Mutation(
        "a batch may be of any length",
        "transport/batch.cpp",
        "if (header.length == 0 || header.length > kMaxBatchBytes) {",
        "if (header.length == 0) {",
        ("BatchHeader.RefusesWhatCannotBe",),
    ),
    # --- What a peer makes us keep ------------------------------------------------------------
    Mutation(
        "credits are not counted",
        "protocol/senders_messages.cpp",
        "if (session.peer_grants.size() >= options_.recv_credits) {",
        "if (session.peer_grants.size() >= options_.recv_credits && false) {",
        (
            "HostileReceiver.MoreRecvsThanCredits",
            "HostileReceiver.CancelsGiveNoCreditThatWasNotTaken",
        ),
    ),
    Mutation(
        "plans are kept without end",
        "protocol/senders_messages.cpp",
        "session.peer_plan_pairs > kMaxPlanPairs) {",
        "(session.peer_plan_pairs > kMaxPlanPairs && false)) {",
        ("HostileReceiver.PlansWithoutEnd",),
    ),
    Mutation(
        "pools are kept without end",
        "protocol/sessions.cpp",
        "if (planes > kMaxPeerPlanes) {",
        "if (planes > kMaxPeerPlanes && false) {",
        ("HostileReceiver.PoolsWithoutEnd",),
    ),
    # --- One-sided access ---------------------------------------------------------------------
    Mutation(
        "all memory may be read",
        "protocol/senders_messages.cpp",
        "    if (allowed) allowed = actions_.check_remote(read.source, false);\n",
        "",
        ("HostileAsker.ReadsAtEveryEdge", "HostileAsker.PoolsAreNotToBeReadOneSidedly"),
        quick=True,
    ),
    Mutation(
        "all memory may be written",
        "protocol/receivers_messages.cpp",
        "    if (allowed) allowed = actions_.check_remote(write.destination, true);\n",
        "",
        ("*OneSided.WriteToWhatIsNotRegisteredIsRefused*",),
    ),
    # --- On one host --------------------------------------------------------------------------
    Mutation(
        "same-host peers need no token",
        "transport/samehost/server.cpp",
        "if (!admit_(request.token)) {",
        "if (!admit_(request.token) && false) {",
        ("SameHost.AnUnknownTokenIsRefused",),
    ),
    Mutation(
        "a process is the peer whatever its memory holds",
        "transport/samehost/handshake.cpp",
        " || found != proof.nonce) {",
        ") {",
        ("Identify.AWrongNonceIsNotThePeer",),
    ),
    Mutation(
        "a ring need not be sealed",
        "transport/shm/ring_memory.cpp",
        "if ((seals & (F_SEAL_SHRINK | F_SEAL_GROW)) != (F_SEAL_SHRINK | F_SEAL_GROW)) {",
        "if ((seals & (F_SEAL_SHRINK | F_SEAL_GROW)) != (F_SEAL_SHRINK | F_SEAL_GROW) && false) {",
        ("RingMemory.AdoptsOnlySealedMemoryOfAPossibleSize",),
    ),
    Mutation(
        "a ring of our own is not sealed",
        "transport/shm/ring_memory.cpp",
        "if (::fcntl(rings->descriptor(), F_ADD_SEALS, kSeals) != 0)",
        "if (kSeals == 0)",
        ("RingMemory.CannotBeResizedByEitherSide",),
    ),
    Mutation(
        "the producer believes the consumer's position",
        "transport/shm/ring.cpp",
        "    if (used > ring_.capacity) return impossible();\n",
        "",
        (
            "RingEnds.ImpossiblePositionsAreNoticed",
            "HostileConsumer.PositionsAheadOfTheSenderEndTheLane",
            "HostileConsumer.PositionsThatGoBackEndTheLane",
        ),
    ),
    Mutation(
        "the consumer believes the producer's position",
        "transport/shm/ring.cpp",
        "    if (bytes > ring_.capacity) return impossible();\n",
        "",
        (
            "RingEnds.ImpossiblePositionsAreNoticed",
            "HostileRing.APositionBeyondTheRing",
            "HostileRing.APositionThatGoesBack",
        ),
    ),
    Mutation(
        "a record may be longer than what was published",
        "transport/shm/shm_lane.cpp",
        "        if (record > readable->size()) return truncated();\n",
        "",
        ("HostileRing.LessThanTheHeaderSays",),
    ),
    Mutation(
        "a process that took the peer's number over is read",
        "transport/cma/cma_path.cpp",
        "    if (::poll(&ended, 1, 0) != 0) return peer_ended();\n",
        "    (void)ended;\n",
        ("HostileCma.AReusedNumberNeverCounts",),
        quick=True,
    ),
    Mutation(
        "a read counts whatever the guard says",
        "transport/cma/cma_path.cpp",
        "if (guard != job.expected) return",
        "if (guard != job.expected && false) return",
        ("HostileCma.ARewoundSendNeverCounts", "HostileCma.ASendThatHasEndedNeverCounts"),
        quick=True,
    ),
)
