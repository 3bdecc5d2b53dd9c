// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "protocol/network.hpp"

namespace mc::simulation {

// A peer driven by hand: it says what the test tells it to, true or not, and keeps what it hears.
class Stranger {
  public:
    // Can be connected to at `address`. Shows no pools unless `hello` is given some.
    Stranger(Network& network, const std::string& address) : network_(network) {
        hello.address = address;
        hello.instance = Token::random();
        hello.recv_credits = 4;
        network.listen(address, [state = state_](const auto& connection) {
            state->adopt(connection, Connection::acceptor);
        });
    }
    Stranger(const Stranger&) = delete;
    Stranger& operator=(const Stranger&) = delete;
    ~Stranger() { network_.unlisten(hello.address); }

    Hello hello;

    void connect(const std::string& node) {
        state_->adopt(network_.connect(node), Connection::connector);
        network_.run_for(1ms);
    }
    void greet() { say(hello); }
    // As a peer that keeps to the rules would begin.
    void connect_and_greet(const std::string& node) {
        connect(node);
        greet();
    }
    void say(const Message& message) {
        state_->connection->send(state_->side, message);
        network_.run_for(1ms);
    }
    void push(const Batch& batch) {
        state_->connection->push(state_->side, 1, batch);
        network_.run_for(1ms);
    }
    void end_lane(GrantId grant, std::uint32_t epoch) {
        state_->connection->end_lane(state_->side, 1, grant, epoch);
        network_.run_for(1ms);
    }
    void hang_up() { state_->connection->close(state_->side); }

    [[nodiscard]] bool connected() const { return state_->connection != nullptr; }
    [[nodiscard]] bool cut_off() const { return state_->cut_off; }  // by the other side
    [[nodiscard]] const std::vector<Message>& heard() const { return state_->messages; }
    template <typename M>
    [[nodiscard]] std::vector<M> heard() const {
        std::vector<M> found;
        for (const Message& message : state_->messages) {
            if (const auto* matching = std::get_if<M>(&message)) found.push_back(*matching);
        }
        return found;
    }
    [[nodiscard]] bool refused_for_protocol() const {
        const auto byes = heard<Bye>();
        return cut_off() && !byes.empty() && byes.back().code == Code::protocol;
    }

  private:
    struct State : std::enable_shared_from_this<State> {
        void adopt(const std::shared_ptr<Connection>& with, Connection::Side which) {
            connection = with;
            side = which;
            with->attach(side,
                         {[weak = weak_from_this()](const Message& message) {
                              if (const auto state = weak.lock())
                                  state->messages.push_back(message);
                          },
                          [](unsigned, const Batch&) {}, [](unsigned, GrantId, std::uint32_t) {},
                          [weak = weak_from_this()] {
                              if (const auto state = weak.lock()) state->cut_off = true;
                          }});
        }
        std::shared_ptr<Connection> connection;
        Connection::Side side = Connection::connector;
        std::vector<Message> messages;
        bool cut_off = false;
    };

    Network& network_;
    std::shared_ptr<State> state_ = std::make_shared<State>();
};

}  // namespace mc::simulation
