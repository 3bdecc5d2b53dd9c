// SPDX-License-Identifier: Apache-2.0
// Handshakes among those who have no key: peers that say anything, repeat what they heard anywhere
// and reflect it; and a man in the middle of two engines with the same key, who drops, repeats,
// reorders and alters. The first kind is never believed; the second can prevent a session, but a
// side that believes the other has heard exactly what was said.
#include <gtest/gtest.h>

#include <array>
#include <chrono>
#include <deque>
#include <map>
#include <memory>
#include <vector>

#include "input.hpp"
#include "invent.hpp"
#include "world.hpp"

namespace mc::fuzz {
namespace {

Token key_id(std::uint8_t number) {
    Token id;
    id.bytes.fill(number);
    return id;
}

// With keys 1 to `count`.
World::Options with_keys(std::uint64_t count, const std::string& address) {
    World::Options options;
    options.address = address;
    options.keeps_books = false;
    for (std::uint8_t number = 1; number <= count; ++number) {
        options.protocol.keys.push_back(key_id(number));
        options.secrets[key_id(number)] = 0x5ec2e7ULL << 32 | number;
    }
    return options;
}

Bytes frame_of(const Message& message) {
    Bytes frame;
    encode(message, frame);
    return frame;
}

// A message of the handshake, or nearly one.
Message invent_greeting(Input& input, World& world) {
    switch (input.below(4)) {
        case 0: {
            Challenge challenge;
            challenge.nonce.bytes.fill(input.byte());
            for (std::uint64_t i = input.below(kMaxKeys + 1); i > 0; --i)
                challenge.keys.push_back(key_id(static_cast<std::uint8_t>(input.below(4))));
            return challenge;
        }
        case 1: {
            Proof proof;
            const auto bytes = input.bytes(proof.mac.size());
            std::copy(bytes.begin(), bytes.end(), proof.mac.begin());
            return proof;
        }
        case 2: return invent_hello(input, world);
        default: return invent(input, world);
    }
}

bool believed(World& world, SessionId id) {
    const Session* session = world.exchange().sessions().find(id);
    return session != nullptr && session->state >= Session::State::linking;
}

void answer_something(Input& input, World& world) {
    if (world.owed() > 0) world.answer(input.below(256) % world.owed(), Verdict::done);
}

// The engine has keys; its peers, which all connect or are all connected to, do not. So whatever
// one of them repeats that was said to it or to another is a replay or a reflection.
void deal_with_strangers(Input& input) {
    World world(with_keys(1 + input.below(2), "engine:1"));
    const bool engine_connects = input.flag();
    std::vector<Message> overheard;
    world.on_send = [&](SessionId, const Message& message) {
        EXPECT_FALSE(std::holds_alternative<Hello>(message) && !engine_connects)
            << "a stranger is told the engine's pools";
        overheard.push_back(message);
    };
    const auto meet = [&] {
        if (world.connected().size() >= 4) return;
        if (engine_connects) {
            (void)world.exchange().sessions().to("peer:" + std::to_string(input.below(4)));
            for (const SessionId id : world.dialling()) world.dialled(id, true);
        } else {
            world.accept();
        }
    };
    meet();
    while (!input.empty()) {
        const auto sessions = world.connected();
        const SessionId session =
            sessions.empty() ? SessionId{} : sessions[input.below(256) % sessions.size()];
        switch (input.below(8)) {
            case 0: meet(); break;
            case 1: world.hang_up(session); break;
            case 2:
            case 3: answer_something(input, world); break;
            case 4: world.pass(std::chrono::milliseconds(input.number() % 10000)); break;
            case 5:
                if (!overheard.empty())
                    world.hear(session, Message(overheard[input.below(256) % overheard.size()]));
                break;
            default: world.hear(session, invent_greeting(input, world)); break;
        }
        for (const SessionId id : world.connected())
            EXPECT_FALSE(believed(world, id)) << "a peer without the key is believed";
        world.audit();
    }
    world.wind_down();
}

// Two engines with equal keys, or none; what is said between them goes through the input's hands.
class ManInTheMiddle {
  public:
    explicit ManInTheMiddle(Input& input)
        : input_(input),
          keys_(input.below(3)),
          ends_{std::make_unique<World>(with_keys(keys_, "connects:1")),
                std::make_unique<World>(with_keys(keys_, "accepts:1"))} {
        for (std::size_t end : {0, 1}) {
            ends_[end]->on_send = [this, end](SessionId, const Message& message) {
                if (const auto* hello = std::get_if<Hello>(&message)) greeted_[end] = *hello;
                under_way_[end].push_back(message);
            };
        }
    }

    void run() {
        session_[0] = ends_[0]->exchange().sessions().to("accepts:1").id;
        session_[1] = ends_[1]->accept();
        ends_[0]->dialled(session_[0], true);
        while (!input_.empty()) {
            step();
            for (const std::size_t end : {0, 1}) {
                ends_[end]->audit();
                check(end);
            }
        }
        for (const auto& end : ends_) end->wind_down();
    }

  private:
    void step() {
        const std::size_t from = input_.below(2);
        auto& queue = under_way_[from];
        switch (input_.below(8)) {
            case 0:
            case 1: answer_something(input_, *ends_[from]); break;
            case 2: ends_[from]->pass(std::chrono::milliseconds(input_.number() % 3000)); break;
            case 3: deliver(from, invent_greeting(input_, *ends_[from])); break;
            case 4: alter(from); break;
            default:
                // As it was said, in another order if the input likes, once or more often.
                if (queue.empty()) break;
                const std::size_t index =
                    input_.below(8) < 6 ? 0 : input_.below(256) % queue.size();
                const Message message = queue[index];
                if (input_.below(8) != 0)
                    queue.erase(queue.begin() + static_cast<std::ptrdiff_t>(index));
                deliver(from, message);
        }
    }

    void deliver(std::size_t from, const Message& message) {
        ends_[1 - from]->hear(session_[1 - from], message);
    }

    // Some bytes of the next message are others.
    void alter(std::size_t from) {
        auto& queue = under_way_[from];
        if (queue.empty()) return;
        Bytes frame = frame_of(queue.front());
        queue.pop_front();
        for (std::uint64_t i = 1 + input_.below(4); i > 0; --i) {
            const std::size_t at = input_.below(256) * frame.size() / 256;
            if (at >= sizeof(std::uint32_t)) frame[at] = input_.byte();
        }
        const auto message = decode(std::span(frame).subspan(sizeof(std::uint32_t)));
        if (!message) {
            ends_[1 - from]->hear_malformed(session_[1 - from], message.status());
        } else if (*message) {
            deliver(from, **message);
        }
    }

    // What this end believes of the other is what the other said.
    void check(std::size_t end) {
        if (keys_ == 0 || !believed(*ends_[end], session_[end])) return;
        ASSERT_TRUE(greeted_.contains(1 - end)) << "believed before it greeted";
        if (std::exchange(checked_[end], true)) return;
        const Hello& said = greeted_.at(1 - end);
        Hello heard = ends_[end]->exchange().sessions().find(session_[end])->peer;
        // POOLs are not proved: those that came during the handshake have been added already.
        if (heard.pools.size() > said.pools.size()) heard.pools.resize(said.pools.size());
        EXPECT_EQ(frame_of(heard), frame_of(said)) << "a HELLO was altered on its way";
    }

    Input& input_;
    const std::uint64_t keys_;
    std::array<std::unique_ptr<World>, 2> ends_;
    std::array<SessionId, 2> session_;
    std::array<std::deque<Message>, 2> under_way_;  // from each end
    std::map<std::size_t, Hello> greeted_;
    std::array<bool, 2> checked_{};
};

}  // namespace
}  // namespace mc::fuzz

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    mc::fuzz::Input input(data, size);
    if (input.flag()) {
        mc::fuzz::deal_with_strangers(input);
    } else {
        mc::fuzz::ManInTheMiddle(input).run();
    }
    return 0;
}
