// SPDX-License-Identifier: Apache-2.0
#include "invent.hpp"

#include <map>
#include <string>
#include <utility>
#include <vector>

namespace mc::fuzz {

namespace {

std::string tag(Input& input) { return std::string(1, static_cast<char>('a' + input.below(3))); }
GrantId grant(Input& input) { return GrantId{input.number() % 16}; }
std::uint32_t epoch(Input& input) { return input.number32(); }
std::uint16_t part(Input& input) { return static_cast<std::uint16_t>(input.number()); }

TokenRange range(Input& input) {
    const std::uint32_t first = input.number32();
    const auto count =
        static_cast<std::uint32_t>(std::min<std::uint64_t>(input.number(), UINT32_MAX - first));
    return {first, first + count};
}

std::vector<TokenRange> ranges(Input& input) {
    std::vector<TokenRange> found;
    std::uint64_t at = 0;
    for (std::uint64_t i = input.below(3); i > 0; --i) {
        at += input.number();
        const std::uint64_t end = at + 1 + input.number();
        if (end > UINT32_MAX || at > end) break;
        found.push_back({static_cast<std::uint32_t>(at), static_cast<std::uint32_t>(end)});
        at = end;
    }
    return found;
}

Pool pool(Input& input, World& world) {
    Pool pool = world.pages(input.flag() ? "kv" : "aux").pool();
    switch (input.below(8)) {
        case 0: pool.name = std::string(1, static_cast<char>('a' + input.below(26))); break;
        case 1: pool.page_size = 1U << input.below(21); break;
        case 2: pool.page_count = input.number32(); break;
        case 3: pool.planes[0].page_stride = input.number(); break;
        case 4: pool.planes[0].base = input.number(); break;
        case 5: pool.planes[0].elements = input.number32(); break;
        case 6: pool.null_page = static_cast<std::int32_t>(input.number32()); break;
        default: break;
    }
    return pool;
}

Match match(Input& input, const Pool& own) {
    // It follows from the shape, not from the addresses.
    static std::map<std::string, Match> known;
    auto found = known.find(own.name);
    if (found == known.end()) {
        const Pool* same = &own;
        found = known.emplace(own.name, match_pools({&same, 1}, own)->front()).first;
    }
    Match match = found->second;
    switch (input.below(8)) {
        case 0: match.pairs.clear(); break;
        case 1: match.pairs[0].source_plane = input.number32(); break;
        case 2: match.pairs[0].source_head = input.number32(); break;
        case 3: match.pairs[0].elements = input.number32(); break;
        case 4: match.token_bytes = input.number(); break;
        case 5: match.order.block_tokens = input.number32(); break;
        case 6: match.order.axes[input.below(4)] = static_cast<Axis>(input.below(4)); break;
        default: break;
    }
    return match;
}

std::vector<Segment> segments(Input& input, std::uint64_t base) {
    std::vector<Segment> found;
    for (std::uint64_t i = input.below(4); i > 0; --i) {
        const std::uint64_t first = base + input.number();
        found.push_back({first, input.number()});
    }
    return found;
}

Message about_a_recv(Input& input, World& world) {
    switch (input.below(3)) {
        case 0: {
            const Pool& own = world.pages(input.flag() ? "kv" : "aux").pool();
            return Plan{PlanId{input.below(4)}, own.name, match(input, own)};
        }
        case 1: {
            Recv recv;
            recv.grant = grant(input);
            recv.request = input.below(4);
            recv.tag = tag(input);
            recv.receiver_count = static_cast<std::uint32_t>(1 + input.below(3));
            recv.receiver_index = static_cast<std::uint32_t>(input.below(recv.receiver_count));
            recv.remaining_ms = input.number32();
            recv.segment_bytes = input.number();
            recv.verify = input.flag();
            for (std::uint64_t i = input.below(3); i > 0; --i)
                recv.parts.push_back({PlanId{1 + input.below(3)}, ranges(input)});
            return recv;
        }
        default: {
            const std::uint32_t left = input.number32();
            return Read{grant(input), left, input.number(), input.flag(),
                        segments(input, world.readable())};
        }
    }
}

constexpr std::uint32_t kTokenBytes = 8;  // of both pools of the world

// Mostly the first one.
std::uint32_t likely_epoch(Input& input) {
    return static_cast<std::uint32_t>(input.below(8) < 5 ? 0 : input.below(3));
}

// Of one of the parts, wholly or without its end.
std::pair<std::uint16_t, TokenRange> some_tokens(Input& input, const Recv& recv) {
    if (recv.parts.empty()) return {};
    const auto part = static_cast<std::uint16_t>(input.below(recv.parts.size()));
    const auto& wanted = recv.parts[part].wanted;
    TokenRange tokens = wanted[input.below(wanted.size())];
    if (input.below(4) == 0)
        tokens.end -= static_cast<std::uint32_t>(input.byte()) % tokens.count();
    return {part, tokens};
}

// How many tokens a page of this part has.
std::uint32_t page_size(World& world, SessionId session, PlanId id) {
    for (const World::Said& said : world.said()) {
        const auto* plan = std::get_if<Plan>(&said.message);
        if (plan != nullptr && said.session == session && plan->id == id)
            return world.pages(plan->pool).pool().page_size;
    }
    return 1;
}

Message serve(Input& input, World& world, SessionId session, const Recv& recv) {
    const auto [part, tokens] = some_tokens(input, recv);
    const std::uint32_t epoch = likely_epoch(input);
    switch (input.below(8)) {
        case 0: return Known{recv.grant};
        case 1:
        case 2: {
            Ready ready{recv.grant, epoch, part, tokens, {}, 0, 0};
            const std::uint32_t size =
                recv.parts.empty() ? 1 : page_size(world, session, recv.parts[part].plan);
            const std::uint32_t first = tokens.first / size;
            for (std::uint32_t page = first; page * size < tokens.end && page < 24; ++page)
                ready.pages.push_back(static_cast<std::int32_t>(page));
            return ready;
        }
        case 3:
        case 4:
            return Data{recv.grant, epoch, part, tokens, 0, Bytes(tokens.count() * kTokenBytes, 1)};
        case 5:
            return mc::Rewind{recv.grant, epoch + 1, static_cast<std::uint32_t>(input.below(3))};
        case 6: return Fail{recv.grant, Code::aborted, "the peer says so"};
        default: {
            std::uint64_t bytes = 0;  // of what was pushed: all or nothing
            if (input.flag()) {
                for (const RecvPart& each : recv.parts)
                    bytes += count_tokens(each.wanted) * kTokenBytes;
            }
            return Done{recv.grant, epoch, bytes, static_cast<std::uint32_t>(input.below(3))};
        }
    }
}

// For what was asked for one-sidedly.
Message serve_list(Input& input, GrantId grant, const std::vector<Segment>& list) {
    std::uint64_t bytes = 0;
    for (const Segment& segment : list) bytes += segment.length;
    switch (input.below(4)) {
        case 0: return Ready{grant, 0, 0, {}, {}, 0, 0};
        case 1: return Done{grant, 0, input.flag() ? bytes : 0, 0};
        case 2: return Fail{grant, Code::aborted, "the peer says so"};
        default: return Data{grant, 0, 0, {}, 0, Bytes(std::min<std::uint64_t>(bytes, 2048), 1)};
    }
}

}  // namespace

BatchHeader batch_for(Input& input, const Recv& recv) {
    BatchHeader header;
    const auto [part, tokens] = some_tokens(input, recv);
    header.grant = recv.grant;
    header.epoch = likely_epoch(input);
    header.part = part;
    if (input.below(4) == 0) {
        header.kind = BatchHeader::Kind::end;
        return header;
    }
    header.first_token = tokens.first;
    header.tokens = tokens.count();
    header.length = tokens.count() * kTokenBytes;
    if (input.below(4) == 0) {
        header.offset = input.number() % (header.length + 1);
        header.length -= static_cast<std::uint32_t>(header.offset);
    }
    return header;
}

Message answer_to(Input& input, World& world, const World::Said& said) {
    const Message& message = said.message;
    if (const auto* recv = std::get_if<Recv>(&message))
        return serve(input, world, said.session, *recv);
    if (const auto* read = std::get_if<Read>(&message))
        return serve_list(input, read->grant, read->source);
    if (const auto* granted = std::get_if<WriteGrant>(&message))
        return serve_list(input, granted->grant, {{0, input.number()}});
    if (const auto* write = std::get_if<Write>(&message)) {
        if (input.flag())
            return WriteGrant{write->write, grant(input), input.flag() ? 64U : 0U, false};
        return WriteRefused{write->write, Code::aborted, "no"};
    }
    if (const auto* done = std::get_if<Done>(&message)) return Received{done->grant};
    if (const auto* rewind = std::get_if<mc::Rewind>(&message))
        return Rewound{rewind->grant, rewind->epoch};
    if (const auto* cancel = std::get_if<Cancel>(&message)) return Cancelled{cancel->grant};
    if (const auto* known = std::get_if<Known>(&message)) return Cancel{known->grant};
    if (const auto* data = std::get_if<Data>(&message)) return Received{data->grant};
    if (const auto* ready = std::get_if<Ready>(&message)) return Received{ready->grant};
    return invent(input, world);
}

Hello invent_hello(Input& input, World& world) {
    Hello hello;
    hello.instance.bytes.fill(static_cast<std::uint8_t>(1 + input.below(4)));
    hello.address = input.flag() ? "peer:1" : "peer:2";
    hello.recv_credits = static_cast<std::uint32_t>(input.below(4));
    if (input.below(16) == 0) hello.version = static_cast<std::uint16_t>(input.number());
    if (input.below(16) == 0) hello.plan_version = input.number32();
    for (const char* name : {"kv", "aux"}) {
        if (input.below(8) != 7) hello.pools.push_back(world.pages(name).pool());
    }
    if (input.below(8) == 0) hello.pools.push_back(pool(input, world));
    return hello;
}

Message invent(Input& input, World& world) {
    switch (input.below(20)) {
        case 0: return PoolAdded{pool(input, world)};
        case 1:
        case 2:
        case 3: return about_a_recv(input, world);
        case 4: {
            const TransferId id{input.number()};
            const std::uint32_t left = input.number32();
            std::vector<Segment> destination = segments(input, world.writable());
            std::vector<Segment> source = input.flag() ? destination : segments(input, 16);
            return Write{id, left, std::move(destination), std::move(source)};
        }
        case 5:
            return WriteGrant{TransferId{input.number()}, grant(input), input.number(),
                              input.flag()};
        case 6: return WriteRefused{TransferId{input.number()}, Code::internal, "no"};
        case 7: return Known{grant(input)};
        case 8: {
            Ready ready{grant(input), epoch(input), part(input), range(input), {}, 0, 0};
            for (std::uint64_t i = input.below(8); i > 0; --i)
                ready.pages.push_back(static_cast<std::int32_t>(input.number()));
            return ready;
        }
        case 9: {
            Data data{grant(input), epoch(input), part(input), range(input), input.number(), {}};
            const auto bytes = input.bytes(input.byte());
            data.bytes.assign(bytes.begin(), bytes.end());
            return data;
        }
        case 10:
            return SliceDigest{grant(input), epoch(input), part(input), range(input),
                               input.number()};
        case 11: return Done{grant(input), epoch(input), input.number(), input.number32()};
        case 12: return Received{grant(input)};
        case 13: return Fail{grant(input), Code::aborted, "the peer says so"};
        case 14: return Cancel{grant(input)};
        case 15: return Cancelled{grant(input)};
        case 16: return mc::Rewind{grant(input), epoch(input), input.number32()};
        case 17: return Rewound{grant(input), epoch(input)};
        case 18: return input.flag() ? Message(Ping{input.number()}) : Message(Pong{});
        default: return input.flag() ? Message(Bye{Code::ok, "bye"}) : Message(Proof{});
    }
}

}  // namespace mc::fuzz
