// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <unordered_map>
#include <vector>

#include "protocol/exchange.hpp"
#include "protocol/ledger.hpp"
#include "protocol/memory.hpp"
#include "protocol/network.hpp"

namespace mc::simulation {

// How a node ships: by lanes, inside control messages, or by letting the peer read.
enum class Way : std::uint8_t { push, inline_data, pull, any };

struct NodeOptions {
    ProtocolOptions protocol;
    Way way = Way::push;
    bool can_pull = true;  // read peers' pages
    unsigned lanes = 2;
    std::vector<Shape> pools{Shape{}};
    InstanceId instance = Token::random();
    std::map<Token, std::uint64_t> secrets;  // by the key's id; protocol.keys says which are used
    bool trusts_peers = false;  // they keep to the rules, so this node may not accuse one
    Duration slack = 1s;        // what the node's other threads may add to a deadline
};

// Stands in for HMAC: nobody here is as clever as to break it.
Proof toy_proof(std::uint64_t secret, const Bytes& statement);

// One incarnation of a simulated engine: an Exchange, its memory, and what the engine's threads
// would do, each thing after a delay of its own. Its paths are as nasty as the contract of Actions
// allows: pushed bytes and reads may land until sink_closed, and pages may be read until
// source_closed. It fails the test if a byte lands in pages of a transfer that has completed, if a
// transfer completes twice or too early, and if it says what its ledger forbids. audit() checks
// what has to hold after every event, leftovers() what has to hold at the end.
class Node final : public Actions, public std::enable_shared_from_this<Node> {
  public:
    static std::shared_ptr<Node> start(Network& network, const std::string& address,
                                       NodeOptions options = {});
    ~Node() override;
    Node(const Node&) = delete;
    Node& operator=(const Node&) = delete;

    Network& network;
    const std::string address;
    NodeOptions options;

    [[nodiscard]] Exchange& exchange() { return *exchange_; }
    Memory& memory(const std::string& pool = "kv") { return memories_.at(pool); }
    // Memory that peers may touch one-sidedly.
    std::vector<std::uint8_t> readable = std::vector<std::uint8_t>(4096);
    std::vector<std::uint8_t> writable = std::vector<std::uint8_t>(4096);

    bool damages_digests = false;  // that it sends

    // Faults. A frozen node does nothing until thaw(); a lost connection is noticed by nobody.
    void freeze() { frozen_ = true; }
    void thaw();
    [[nodiscard]] bool frozen() const { return frozen_; }
    void lose_connections();
    void reset_connections();  // which both sides see
    // The connections end, which the peers see; the node can only be destroyed then.
    void crash();

    // Transfers. Numbers are the node's; `ended` is called when the transfer is complete.
    using Ended = std::function<void(const Status&)>;
    TransferId open_send(const std::string& tag, Duration patience, Ended ended = {});
    TransferId open_recv(RecvRequest request, Ended ended = {});
    TransferId write(const std::string& peer, std::vector<Segment> source,
                     std::vector<Segment> destination, Duration deadline);
    TransferId read(const std::string& peer, std::vector<Segment> source,
                    std::vector<Segment> destination, Duration deadline, Ended ended = {});
    // The transfer has to end within `patience`; a send, within that after its last progress.
    void expect_end(TransferId id, Duration patience);
    // What was read of a send's pages so far is void. Returns the new epoch, for rewind().
    std::uint32_t take_back(TransferId send);

    [[nodiscard]] std::optional<Status> outcome(TransferId id) const;
    [[nodiscard]] std::size_t sent(std::string_view name) const;  // messages of that name
    [[nodiscard]] GrantId first_grant() const;                    // that was asked for
    std::vector<Message> messages;                                // all that were sent
    std::vector<TokenRange> shipped;                              // in the order of the shipments
    std::vector<std::pair<TransferId, std::optional<std::uint32_t>>> matches;
    [[nodiscard]] std::string leftovers() const;  // empty when nothing is left of any transfer
    // Fails the test if something does not hold that has to hold at all times: what is kept belongs
    // to a transfer that has not ended, every grant is where the messages say that it is, nobody is
    // waited for longer than agreed.
    void audit();

    // Does something in this node now, or after its thaw.
    void run(std::function<void()> work);

    // Actions.
    Instant time() override { return network.now(); }
    void wake_at(Instant when) override;
    void connect(SessionId session, const std::string& peer) override;
    void send(SessionId session, const Message& message) override;
    void close(SessionId session, const Status& reason) override;
    void authenticate(SessionId session, AuthenticationRequest request) override;
    void link(const Session& session) override;
    bool can_pull(SessionId session) override;
    void ship(const Shipment& shipment) override;
    std::uint32_t end_lanes(SessionId session, GrantId grant, std::uint32_t epoch) override;
    void close_source(TransferId id) override;
    void matched(TransferId id, SessionId session,
                 std::optional<std::uint32_t> first_token) override;
    void open_sink(SessionId session, GrantId grant, TransferId recv,
                   std::vector<SinkPart> parts) override;
    Status place(const Data& data) override;
    std::uint64_t placed(GrantId grant) override;
    void rewind_sink(GrantId grant, std::uint32_t epoch) override;
    void pull(const PullOrder& order) override;
    void verify(GrantId grant, std::vector<SliceDigest> digests) override;
    void close_sink(GrantId grant) override;
    Status check_remote(std::span<const Segment> segments, bool write) override;
    void open_internal(TransferId transfer, bool sends) override;
    void complete(TransferId id, const Status& outcome) override;

  private:
    struct Sink {
        SessionId session;
        TransferId recv;
        std::vector<SinkPart> parts;
        std::uint32_t epoch = 0;
        std::uint64_t placed = 0;
        unsigned writers = 0;  // reads and batches that may still write here
        bool told = false;     // to close
        bool closing = false;  // and every thread knows
    };
    struct Link {
        std::shared_ptr<Connection> connection;
        Connection::Side side;
        std::map<GrantId, std::set<unsigned>> used_lanes;
        Instant quiet_since;  // nothing was heard, although something is waited for
    };
    struct Expected {
        Duration patience;
        Instant by;
    };
    Node(Network& network, std::string address, NodeOptions options);

    void later(const Delay& delay, std::function<void()> work);
    void unlink(SessionId id);
    void touch(TransferId id);  // it made progress
    void audit_transfers();
    void audit_sessions();
    void attach(SessionId id, const std::shared_ptr<Connection>& connection, Connection::Side side);
    void push(const Shipment& shipment, unsigned lanes);
    void answer(const Shipment& shipment, const Status& outcome, std::uint64_t bytes);
    [[nodiscard]] bool current(TransferId send, std::uint32_t epoch) const;
    void land(SessionId session, unsigned lane, const Batch& batch);
    // Does something after all that was to be done on this lane so far, in a thread of its own.
    void on_lane(SessionId session, unsigned lane, std::function<void()> work);
    Result<std::shared_ptr<const Slice>> destination(const Sink& sink, std::uint16_t part,
                                                     TokenRange tokens) const;
    void scatter(const Sink& sink, const std::shared_ptr<const Slice>& slice, std::uint64_t offset,
                 std::span<const std::uint8_t> bytes);
    void end_sink(GrantId grant);

    std::map<std::string, Memory> memories_;
    std::unique_ptr<Exchange> exchange_;
    bool frozen_ = false;
    bool crashed_ = false;
    std::deque<std::function<void()>> deferred_;  // until the thaw
    std::optional<Instant> wake_;
    std::uint64_t next_transfer_ = 1;
    std::map<TransferId, Status> outcomes_;
    std::map<TransferId, Ended> ended_;
    std::set<TransferId> open_;  // transfers that have not completed
    std::map<TransferId, Expected> expected_;
    Ledger ledger_{address};
    Instant awake_since_ = network.now();
    std::map<SessionId, Link> links_;
    std::map<std::pair<SessionId, unsigned>, Instant> lane_busy_until_;
    std::map<TransferId, std::shared_ptr<Source>> sources_;
    std::map<GrantId, Sink> sinks_;
};

}  // namespace mc::simulation
