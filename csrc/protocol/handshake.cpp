// SPDX-License-Identifier: Apache-2.0
#include "protocol/handshake.hpp"

#include <algorithm>
#include <string_view>
#include <utility>

namespace mc {

namespace {

constexpr std::string_view kConnects = "mooncake_connector connects";
constexpr std::string_view kAccepts = "mooncake_connector accepts";

std::string ids(const std::vector<Token>& keys) {
    std::string text;
    for (const Token& key : keys) text += (text.empty() ? "" : ", ") + key.hex();
    return text;
}

}  // namespace

Handshake::Handshake(SessionId session, bool connects, const std::vector<Token>& keys)
    : session_(session),
      connects_(connects),
      keys_(keys),
      step_(keys.empty() ? Step::hello : Step::challenge) {}

Handshake::Next Handshake::begin(Actions& actions) {
    if (!connects_) return Next::wait;
    if (keys_.empty()) return Next::greet;
    say(actions, Challenge{Token::random(), keys_});
    return Next::wait;
}

Result<Handshake::Next> Handshake::receive(Actions& actions, const Message& message) {
    const auto* hello = std::get_if<Hello>(&message);
    const auto* challenge = std::get_if<Challenge>(&message);
    const auto* proof = std::get_if<Proof>(&message);
    if ((hello != nullptr && step_ == Step::challenge) ||
        (challenge != nullptr && keys_.empty() && step_ == Step::hello)) {
        return Status(Code::authentication_failed,
                      "only one of the two engines has a key; give both the same one (key_file)");
    }
    if (challenge != nullptr && step_ == Step::challenge) return challenged(actions, *challenge);
    if (hello != nullptr && step_ == Step::hello) {
        peer_ = *hello;
        if (keys_.empty()) {
            end();
            return Next::accept;
        }
        note(message);
        step_ = Step::proof;
        return Next::wait;
    }
    if (proof != nullptr && step_ == Step::proof) {
        check(actions, *proof);
        return Next::wait;
    }
    return Status(Code::protocol, "an unexpected " + std::string(name_of(message)) +
                                      " before the handshake was over");
}

Result<Handshake::Next> Handshake::challenged(Actions& actions, const Challenge& challenge) {
    const auto common = std::find_if(challenge.keys.begin(), challenge.keys.end(), [&](Token key) {
        return std::find(keys_.begin(), keys_.end(), key) != keys_.end();
    });
    if (common == challenge.keys.end()) {
        return Status(Code::authentication_failed, "the two engines have different keys (" +
                                                       ids(challenge.keys) + " and " + ids(keys_) +
                                                       "); give both the same one (key_file)");
    }
    key_ = *common;
    note(challenge);
    if (connects_) {
        if (challenge.keys.size() != 1) return Status(Code::protocol, "a CHALLENGE with two keys");
        step_ = Step::proof;
        return Next::wait;
    }
    challenge_ = Challenge{Token::random(), {key_}};
    note(*challenge_);
    prove(actions);
    return Next::wait;
}

Handshake::Next Handshake::greet(Actions& actions, Hello own) {
    if (keys_.empty()) {
        actions.send(session_, std::move(own));
        return Next::done;
    }
    own_ = std::move(own);
    note(*own_);
    prove(actions);
    return Next::wait;
}

Result<Handshake::Next> Handshake::authenticated(Actions& actions, const Result<Proof>& answer) {
    if (!answer) {
        return Status(answer.status().code(),
                      answer.status().message() + " (key " + key_.hex() + ")");
    }
    note(*answer);
    if (step_ == Step::checking) {
        step_ = Step::hello;
        if (!peer_) return Next::greet;  // so far the accepting side has only been challenged
        if (connects_) end();
        return Next::accept;
    }
    if (challenge_) actions.send(session_, *std::exchange(challenge_, std::nullopt));
    if (own_) actions.send(session_, *own_);
    actions.send(session_, *answer);
    step_ = Step::hello;
    if (peer_) end();
    return std::exchange(own_, std::nullopt) ? Next::done : Next::wait;
}

void Handshake::end() {
    step_ = Step::over;
    transcript_ = {};
}

void Handshake::prove(Actions& actions) {
    step_ = Step::signing;
    actions.authenticate(session_, {key_, statement(connects_), std::nullopt});
}

void Handshake::check(Actions& actions, const Proof& proof) {
    step_ = Step::checking;
    actions.authenticate(session_, {key_, statement(!connects_), proof});
}

void Handshake::say(Actions& actions, const Message& message) {
    note(message);
    actions.send(session_, message);
}

void Handshake::note(const Message& message) { encode(message, transcript_); }

Bytes Handshake::statement(bool by_connector) const {
    Bytes bytes;
    ByteWriter writer(bytes);
    writer.put_text(by_connector ? kConnects : kAccepts);
    writer.put_raw(transcript_);
    return bytes;
}

}  // namespace mc
