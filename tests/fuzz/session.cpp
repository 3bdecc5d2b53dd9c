// SPDX-License-Identifier: Apache-2.0
// One engine between peers that say anything and an owner who does anything: the input is a program
// of messages, raw frames, batches, local calls, answers of the engine's threads and time.
#include <gtest/gtest.h>

#include <array>
#include <chrono>
#include <string>
#include <utility>

#include "input.hpp"
#include "invent.hpp"
#include "world.hpp"

namespace mc::fuzz {
namespace {

using namespace std::chrono_literals;

constexpr std::size_t kMaxTransfers = 12;
constexpr std::size_t kMaxSessions = 6;

class Program {
  public:
    explicit Program(Input input) : input_(input), world_(options(input_)) {}

    void run() {
        // Most of what there is to find needs a peer that has greeted.
        hello();
        while (!input_.empty()) {
            step();
            world_.audit();
        }
        world_.wind_down();
    }

  private:
    static World::Options options(Input& input) {
        World::Options options;
        options.protocol.recv_credits = static_cast<std::uint32_t>(1 + input.below(4));
        options.protocol.verify = input.flag();
        options.can_pull = input.flag();
        return options;
    }

    // Zero if there is none.
    SessionId session() { return choose(world_.connected(), SessionId{}); }
    TransferId transfer() { return choose(world_.open(), TransferId{input_.number()}); }
    template <typename T>
    T choose(const std::vector<T>& among, T otherwise) {
        return among.empty() ? otherwise : among[input_.below(256) % among.size()];
    }
    std::string address() { return input_.flag() ? "peer:1" : "peer:2"; }
    std::string tag() { return std::string(1, static_cast<char>('a' + input_.below(3))); }
    Duration patience() { return std::chrono::milliseconds(input_.number32()); }
    std::vector<Segment> list(std::uint64_t base) {
        std::vector<Segment> segments;
        for (std::uint64_t i = input_.below(4); i > 0; --i) {
            const std::uint64_t first = input_.below(World::kRegistered);
            segments.push_back(
                {base + first, std::min<std::uint64_t>(input_.byte(), World::kRegistered - first)});
        }
        return segments;
    }

    void hello() {
        if (world_.connected().size() + world_.dialling().size() < kMaxSessions)
            world_.hear(world_.accept(), invent_hello(input_, world_));
    }

    void step() {
        switch (input_.below(32)) {
            case 0: return hear_frame();
            case 1: return hello();
            case 2: return world_.hear(session(), invent_hello(input_, world_));
            case 3: return hear_batch();
            case 4: return world_.hang_up(session());
            case 5: return dialled();
            case 6: return world_.pass(std::chrono::milliseconds(input_.number() % 60000));
            case 7:
            case 8: return answer();
            case 9:
            case 10: return open_send();
            case 11: return world_.append(transfer(), input_.below(8));
            case 12: return world_.mark_ready(transfer(), input_.number32());
            case 13: return world_.rewind(transfer(), input_.number32());
            case 14: return world_.append_rows(transfer(), input_.below(4));
            case 15: return world_.exchange().senders().finish(transfer());
            case 16: return give_up(transfer());
            case 17:
            case 18: return open_recv();
            case 19: return read_or_write();
            case 20:
            case 21:
            case 22:
            case 23:
            case 24: return answer_peer();
            case 25:
            case 26: return batch_to_recv();
            default: return world_.hear(session(), invent(input_, world_));
        }
    }

    void hear_frame() {
        const SessionId from = session();
        const auto message = decode(input_.bytes(input_.byte()));
        if (!message) {
            world_.hear_malformed(from, message.status());
        } else if (*message) {
            world_.hear(from, **message);
        }
    }

    void hear_batch() {
        BatchHeader header;
        header.kind = input_.flag() ? BatchHeader::Kind::batch : BatchHeader::Kind::end;
        header.part = static_cast<std::uint16_t>(input_.number());
        header.grant = GrantId{input_.number()};
        header.epoch = input_.number32();
        header.first_token = input_.number32();
        header.tokens = input_.number32();
        header.length = header.kind == BatchHeader::Kind::batch ? input_.number32() : 0;
        header.offset = input_.number();
        deliver(session(), header);
    }
    void deliver(SessionId from, const BatchHeader& header) {
        BatchHeader::Wire wire{};
        encode(header, wire.data());
        const auto decoded = decode_batch_header(wire);
        static constexpr std::array<std::uint8_t, 1024> kPayload{1, 2, 3};
        if (decoded) world_.hear_batch(from, *decoded, kPayload);
    }

    // Something that was said to a peer.
    const World::Said* said() {
        if (world_.said().empty()) return nullptr;
        return &world_.said()[input_.below(256) % world_.said().size()];
    }
    void answer_peer() {
        if (const World::Said* heard = said())
            world_.hear(heard->session, answer_to(input_, world_, *heard));
    }
    void batch_to_recv() {
        const World::Said* heard = said();
        const auto* recv = heard == nullptr ? nullptr : std::get_if<Recv>(&heard->message);
        if (recv != nullptr) deliver(heard->session, batch_for(input_, *recv));
    }

    // Mostly as far as a session that is ready.
    void dialled() {
        const auto waiting = world_.dialling();
        if (waiting.empty()) return;
        const SessionId session = choose(waiting, SessionId{});
        world_.dialled(session, input_.below(8) != 7);
        if (input_.below(8) != 7) world_.hear(session, invent_hello(input_, world_));
        if (input_.below(8) != 7 && world_.owed() > 0)
            world_.answer(world_.owed() - 1, Verdict::done);
    }

    void answer() {
        if (world_.owed() == 0) return;
        const std::size_t index = input_.below(256) % world_.owed();
        // Mostly good.
        const std::uint64_t verdict = input_.below(8);
        world_.answer(index, verdict < 2 ? static_cast<Verdict>(verdict + 1) : Verdict::done);
    }

    void open_send() {
        if (world_.transfers() >= kMaxTransfers) return;
        const TransferId id = world_.open_send(tag(), patience());
        world_.append(id, input_.below(8));
        world_.mark_ready(id, input_.number32());
    }

    void give_up(TransferId id) {
        const Status reason(Code::aborted, "given up");
        world_.exchange().senders().abort(id, reason);
        world_.exchange().receivers().cancel(id, reason);
    }

    void open_recv() {
        if (world_.transfers() >= kMaxTransfers) return;
        RecvRequest request;
        request.tag = tag();
        request.request = 1 + input_.below(4);
        request.receiver_count = static_cast<std::uint32_t>(1 + input_.below(2));
        request.receiver_index = static_cast<std::uint32_t>(input_.below(request.receiver_count));
        for (std::uint64_t i = input_.below(3); i > 0 || request.senders.empty(); i -= i > 0)
            request.senders.push_back(address());
        request.deadline = patience();
        const auto first = static_cast<std::uint32_t>(input_.below(16));
        const auto count = static_cast<std::uint32_t>(input_.below(32));
        const std::size_t pages = input_.below(8);
        const std::size_t rows = input_.below(3);
        world_.open_recv(std::move(request), pages, rows, {{first, first + count}});
    }

    void read_or_write() {
        if (world_.transfers() >= kMaxTransfers) return;
        const TransferId id = world_.next_transfer();
        if (input_.flag()) {
            world_.started(id, TransferKind::write);
            const auto source = list(world_.readable());
            world_.exchange().senders().write(id, address(), source, source, patience());
        } else {
            world_.started(id, TransferKind::read);
            const auto destination = list(world_.writable());
            world_.exchange().receivers().read(id, address(), destination, destination, patience());
        }
    }

    Input input_;
    World world_;
};

}  // namespace
}  // namespace mc::fuzz

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    mc::fuzz::Program(mc::fuzz::Input(data, size)).run();
    return 0;
}
