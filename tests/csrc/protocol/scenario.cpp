// SPDX-License-Identifier: Apache-2.0
#include "protocol/scenario.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <span>

namespace mc::simulation {

namespace {

constexpr std::string_view kRows = "aux";

std::size_t pages_for(const Memory& memory, std::uint32_t tokens) {
    return (std::size_t{tokens} + memory.pool().page_size - 1) / memory.pool().page_size;
}

// Pages of `memory` for places [begin, end) of a page table.
std::vector<std::int32_t> take(Memory& memory, std::size_t begin, std::size_t end,
                               const std::set<std::size_t>& null_pages) {
    std::vector<std::int32_t> pages;
    for (std::size_t i = begin; i < end; ++i) {
        pages.push_back(null_pages.contains(i) ? memory.pool().null_page.value()
                                               : memory.take(1).front());
    }
    return pages;
}

}  // namespace

Sending::Sending(const std::shared_ptr<Node>& node, const std::string& tag, Duration patience)
    : node_(node), tag_(tag), patience_(patience) {
    id_ = node->open_send(tag, patience, [state = state_, self = node.get()](const Status& ended) {
        state->outcome = ended;
        self->memory().give_back(state->pages);
        if (!state->rows.empty()) self->memory("aux").give_back(state->rows);
    });
}

void Sending::call(std::function<void(Senders&)> what, const Delay& delay) {
    const auto node = node_.lock();
    if (!node) return;
    const Duration later = node->network.draw(delay);
    if (later == Duration::zero() && state_->on_their_way == 0) {
        what(node->exchange().senders());
        return;
    }
    ++state_->on_their_way;
    state_->heard_until = std::max(state_->heard_until, node->network.now() + later);
    node->network.at(state_->heard_until, [weak = node_, state = state_, what = std::move(what)] {
        const auto alive = weak.lock();
        if (!alive) return;
        alive->run([self = alive.get(), state, what] {
            --state->on_their_way;
            what(self->exchange().senders());
        });
    });
}

void Sending::append(std::uint32_t tokens) {
    const auto node = node_.lock();
    if (!node || outcome()) return;
    Memory& memory = node->memory();
    std::vector<std::int32_t>& pages = state_->pages;
    const std::size_t present = pages.size();
    const auto added =
        take(memory, present, std::max(present, pages_for(memory, tokens)), null_pages);
    pages.insert(pages.end(), added.begin(), added.end());
    fill(*node);
    call([id = id_, pool = memory.pool(), added](Senders& senders) {
        senders.append(id, pool, added, 0);
    });
}

void Sending::fill(Node& node) {
    Memory& memory = node.memory();
    const auto held = static_cast<std::uint32_t>(state_->pages.size()) * memory.pool().page_size;
    const std::uint32_t end = std::min(state_->ready, held);
    if (end <= state_->filled) return;
    memory.fill(tag_, state_->pages, 0, {state_->filled, end});
    state_->filled = end;
}

void Sending::mark_ready(std::uint32_t tokens) {
    const auto node = node_.lock();
    if (!node || outcome()) return;
    state_->ready = std::max(state_->ready, tokens);
    fill(*node);
    call([id = id_, tokens](Senders& senders) { senders.mark_ready(id, tokens); });
}

void Sending::rewind(std::uint32_t tokens, const Delay& delay) {
    const auto node = node_.lock();
    if (!node || outcome()) return;
    const std::uint32_t epoch = node->take_back(id_);
    Memory& memory = node->memory();
    const std::size_t kept = std::min(state_->pages.size(), pages_for(memory, tokens));
    memory.give_back(std::span(state_->pages).subspan(kept));
    state_->pages.resize(kept);
    state_->ready = std::min(state_->ready, tokens);
    state_->filled = std::min(state_->filled, tokens);
    memory.fill("somebody else", state_->pages, 0, {tokens, UINT32_MAX});
    call([id = id_, tokens, epoch](Senders& senders) { senders.rewind(id, tokens, epoch); }, delay);
}

void Sending::finish(std::uint32_t rows) {
    const auto node = node_.lock();
    if (!node || outcome()) return;
    if (rows > 0) {
        Memory& memory = node->memory(std::string(kRows));
        state_->rows = memory.take(rows);
        memory.fill(tag_, state_->rows, 0);
        call([id = id_, pool = memory.pool(), pages = state_->rows](Senders& senders) {
            senders.append_final(id, pool, pages, 0);
        });
    }
    call([id = id_](Senders& senders) { senders.finish(id); });
    node->expect_end(id_, patience_);
}

void Sending::abort(const std::string& reason) {
    call(
        [id = id_, reason](Senders& senders) { senders.abort(id, Status(Code::aborted, reason)); });
    if (const auto node = node_.lock()) node->expect_end(id_, 0s);
}

Receiving::Receiving(const std::shared_ptr<Node>& node, const Wish& wish) : node_(node) {
    RecvRequest request;
    request.tag = wish.tag;
    request.request = wish.request != 0 ? wish.request : node->network.random() | 1;
    request.receiver_index = wish.index;
    request.receiver_count = wish.count;
    request.senders = wish.senders;
    request.deadline = wish.deadline;
    const auto add = [&](Memory& memory, std::vector<std::int32_t>& pages, TokenRange tokens,
                         const std::set<std::size_t>& null_pages) {
        const Pool& pool = memory.pool();
        const std::size_t first = tokens.first / pool.page_size;
        pages = take(memory, first, pages_for(memory, tokens.end), null_pages);
        auto table = std::make_shared<PageTable>(pool.page_size, pool.page_count, pool.null_page,
                                                 tokens.first);
        ASSERT_TRUE(table->append(pages).ok());
        auto wanted = table->present(tokens);
        request.parts.push_back({pool.name, std::move(table), std::move(wanted)});
    };
    if (wish.tokens > 0) {
        add(node->memory(), state_->pages, {wish.first_token, wish.tokens}, wish.null_pages);
    }
    if (wish.rows > 0) add(node->memory("aux"), state_->rows, {0, wish.rows}, {});
    const auto parts = request.parts;
    id_ = node->open_recv(
        std::move(request), [=, state = state_, self = node.get()](const Status& ended) {
            state->outcome = ended;
            for (const RecvPages& part : parts) {
                Memory& memory = self->memory(part.pool);
                if (ended.ok()) {
                    for (const TokenRange tokens : part.wanted) {
                        EXPECT_EQ(memory.wrong_bytes(wish.tag, part.pages->pages(),
                                                     part.pages->tokens().first, tokens),
                                  0U)
                            << "wrong bytes in \"" << part.pool << "\" of a recv that ended well";
                    }
                }
                memory.give_back(part.pages->pages());
            }
        });
}

Receiving Receiving::release(const std::shared_ptr<Node>& node, Wish wish) {
    wish.tokens = wish.rows = 0;
    return {node, wish};
}

void Receiving::cancel() {
    const auto node = node_.lock();
    if (!node) return;
    node->expect_end(id_, 0s);
    node->exchange().receivers().cancel(id_, Status(Code::aborted, "cancelled by the receiver"));
}

}  // namespace mc::simulation
