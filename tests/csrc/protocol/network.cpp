// SPDX-License-Identifier: Apache-2.0
#include "protocol/network.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <utility>

namespace mc::simulation {

Duration Network::draw(const Delay& delay) {
    return Duration(
        static_cast<Duration::rep>(pick(random, static_cast<std::uint64_t>(delay.least.count()),
                                        static_cast<std::uint64_t>(delay.most.count()))));
}

void Network::at(Instant when, std::function<void()> event) {
    events_.emplace(std::pair(std::max(when, now_), next_event_++), std::move(event));
}

void Network::run_for(Duration duration) {
    const Instant end = now_ + duration;
    while (!events_.empty() && events_.begin()->first.first <= end) {
        const auto next = events_.extract(events_.begin());
        now_ = next.key().first;
        ++happened_;
        next.mapped()();
        if (inspect && !inspect()) return;
    }
    now_ = end;
}

// FNV-1a.
void Network::note(std::string_view what, std::uint64_t number) {
    const auto mix = [this](std::uint64_t value) { trace_ = (trace_ ^ value) * 0x100000001b3; };
    mix(static_cast<std::uint64_t>(now_.time_since_epoch().count()));
    for (const char letter : what) mix(static_cast<std::uint8_t>(letter));
    mix(number);
}

std::shared_ptr<Connection> Network::connect(const std::string& address) {
    const auto listener = listeners_.find(address);
    if (listener == listeners_.end()) return nullptr;
    auto connection = std::make_shared<Connection>(*this);
    listener->second(connection);
    return connection;
}

void Connection::attach(Side side, End end) {
    ends_.at(side) = std::move(end);
    for (const auto& arrival : std::exchange(unattended_.at(side), {})) arrival(*ends_.at(side));
}

void Connection::carry(Side from, unsigned channel, std::function<void(End)> arrival) {
    Instant& latest = latest_.at(from)[channel];
    const bool control = channel == kControl;
    const Delay& delay = control ? network_.wire : network_.lanes.value_or(network_.wire);
    latest = std::max(latest, network_.now() + network_.draw(delay));
    network_.at(latest, [self = shared_from_this(), to = other(from), control,
                         arrival = std::move(arrival)] {
        if (self->lost_ || (control && self->closed_.at(to))) return;
        if (self->ends_.at(to)) {
            arrival(*self->ends_.at(to));
        } else {
            self->unattended_.at(to).push_back(arrival);
        }
    });
}

void Connection::send(Side from, const Message& message) {
    Bytes frame;
    encode(message, frame);
    network_.note(name_of(message), frame.size());
    carry(from, kControl, [frame = std::move(frame)](const End& end) {
        const auto length = frame_length(frame);
        ASSERT_TRUE(length.ok() && *length && **length + 4 == frame.size());
        const auto decoded = decode(std::span(frame).subspan(4));
        ASSERT_TRUE(decoded.ok()) << decoded.status().to_string();
        ASSERT_TRUE(decoded->has_value());
        end.message(**decoded);
    });
}

void Connection::push(Side from, unsigned lane, Batch batch) {
    carry(from, lane, [lane, batch = std::move(batch)](const End& end) { end.batch(lane, batch); });
}

void Connection::end_lane(Side from, unsigned lane, GrantId grant, std::uint32_t epoch) {
    carry(from, lane, [lane, grant, epoch](const End& end) { end.lane_ended(lane, grant, epoch); });
}

void Connection::reset() {
    for (const Side side : {connector, acceptor}) {
        network_.at(network_.now(), [self = shared_from_this(), side] {
            if (!std::exchange(self->closed_.at(side), true) && self->ends_.at(side))
                End(*self->ends_.at(side)).closed();
        });
    }
    lost_ = true;
}

void Connection::close(Side from) {
    if (closed_.at(from)) return;
    closed_.at(from) = true;
    carry(from, kControl, [](const End& end) { end.closed(); });
}

}  // namespace mc::simulation
