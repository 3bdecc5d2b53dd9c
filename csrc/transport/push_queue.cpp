// SPDX-License-Identifier: Apache-2.0
#include "transport/push_queue.hpp"

#include <utility>

namespace mc {

void PushQueue::add(Push job) {
    outstanding_.fetch_add(job.piece.length, std::memory_order_relaxed);
    add(Item{std::move(job), false, nullptr, 0});
}

void PushQueue::add_end(GrantId grant, std::uint32_t epoch) {
    Push mark;
    mark.piece.grant = grant;
    mark.piece.epoch = epoch;
    add(Item{std::move(mark), true, nullptr, 0});
}

void PushQueue::add(Item item) {
    Flow& flow = flows_[item.push.piece.grant];
    flow.items.push_back(std::move(item));
    if (flow.items.size() == 1) turns_.push_back(&flow);
}

void PushQueue::choose() {
    if (turn_bytes_ < kMaxBatchBytes) return;
    turn_bytes_ = 0;
    turns_.push_back(turns_.front());
    turns_.pop_front();
}

bool PushQueue::at_end() const { return flow().items.front().end; }

BatchHeader PushQueue::take_end() {
    const Flow& current = flow();
    BatchHeader header;
    header.kind = BatchHeader::Kind::end;
    header.grant = current.items.front().push.piece.grant;
    header.epoch = current.items.front().push.piece.epoch;
    header.offset = current.epoch == header.epoch ? current.sent : 0;
    const bool last = current.items.size() == 1;
    take_item();
    if (last) flows_.erase(header.grant);
    return header;
}

const Push& PushQueue::job() const { return flow().items.front().push; }

std::uint64_t PushQueue::job_remaining() const {
    const Item& item = flow().items.front();
    return item.push.piece.length - item.sent;
}

SegmentStream& PushQueue::stream() {
    Item& item = flow().items.front();
    if (!item.stream) {
        const Piece& piece = item.push.piece;
        item.stream = std::make_unique<SegmentStream>(item.push.source, piece.offset, piece.length);
    }
    return *item.stream;
}

BatchHeader PushQueue::header(std::uint32_t length) const {
    const Item& item = flow().items.front();
    const Piece& piece = item.push.piece;
    return {BatchHeader::Kind::batch, piece.part,   piece.grant, piece.epoch,
            piece.first_token,        piece.tokens, length,      piece.offset + item.sent};
}

void PushQueue::account(std::uint32_t length) {
    Flow& current = flow();
    Item& item = current.items.front();
    if (current.epoch != item.push.piece.epoch) {
        current.epoch = item.push.piece.epoch;
        current.sent = 0;
    }
    current.sent += length;
    item.sent += length;
    turn_bytes_ += length;
    outstanding_.fetch_sub(length, std::memory_order_relaxed);
}

PushQueue::Finished PushQueue::take_job() {
    outstanding_.fetch_sub(job_remaining(), std::memory_order_relaxed);
    Item item = take_item();
    return {std::move(item.push.done), {item.sent, item.stream ? item.stream->segments() : 0}};
}

PushQueue::Item PushQueue::take_item() {
    Flow& current = flow();
    Item item = std::move(current.items.front());
    current.items.pop_front();
    if (current.items.empty()) {
        turns_.pop_front();
        turn_bytes_ = 0;
    }
    return item;
}

std::vector<PushQueue::Finished> PushQueue::take_all() {
    std::vector<Finished> all;
    while (!empty()) {
        if (at_end()) {
            take_end();
        } else {
            all.push_back(take_job());
        }
    }
    flows_.clear();
    return all;
}

}  // namespace mc
