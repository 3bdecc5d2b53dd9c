// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "protocol/actions.hpp"

namespace mc {

// One side of a session's handshake. Without keys the two HELLOs go, the connecting side's first.
// With keys each side proves first that it holds the same key, and that nobody has altered what
// was said, before the other one believes or tells anything:
//
//   connects                            accepts
//   CHALLENGE (nonce, ids of its keys)
//                                       CHALLENGE (nonce, id of the chosen key), PROOF
//   HELLO, PROOF
//                                       HELLO, PROOF
//
// A PROOF is HMAC-SHA256 (RFC 2104, FIPS 180-4) under the key over the prover's role and all
// messages of both sides so far, as they are encoded. Messages are told from each other by their
// lengths, roles by their names; both nonces are part of every proof. So a proof can be neither
// replayed nor reflected, and swapped pools, versions or link tokens make it wrong.
class Handshake {
  public:
    enum class Next : std::uint8_t {
        wait,    // for a message or for an answer of the authentication
        greet,   // call greet() with our HELLO
        accept,  // peer() is the peer's HELLO, and proved where there are keys
        done,    // our HELLO has left
    };

    // `keys`: ids of this engine's keys, the preferred one first.
    Handshake(SessionId session, bool connects, const std::vector<Token>& keys);

    Next begin(Actions& actions);  // the connection is there
    Result<Next> receive(Actions& actions, const Message& message);
    // The answer to Actions::authenticate: the proof that was asked for, or the one that held.
    Result<Next> authenticated(Actions& actions, const Result<Proof>& answer);
    Next greet(Actions& actions, Hello own);

    // For an answer of the authentication: no message can be received now.
    [[nodiscard]] bool waiting() const { return step_ == Step::checking || step_ == Step::signing; }
    [[nodiscard]] Hello& peer() { return *peer_; }

  private:
    enum class Step : std::uint8_t { challenge, proof, hello, checking, signing, over };

    Result<Next> challenged(Actions& actions, const Challenge& challenge);
    void end();
    void prove(Actions& actions);
    void check(Actions& actions, const Proof& proof);
    void say(Actions& actions, const Message& message);
    void note(const Message& message);  // part of the transcript from now on
    [[nodiscard]] Bytes statement(bool by_connector) const;

    SessionId session_;
    bool connects_;
    std::vector<Token> keys_;
    Token key_;  // the one that both have
    Step step_;
    Bytes transcript_;
    std::optional<Challenge> challenge_;  // of the accepting side, to be sent with its proof
    std::optional<Hello> own_;            // to be sent with its proof
    std::optional<Hello> peer_;
};

}  // namespace mc
