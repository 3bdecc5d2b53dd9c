// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "engine/acceptor.hpp"
#include "engine/background.hpp"
#include "engine/control_channel.hpp"
#include "engine/links.hpp"
#include "engine/loops.hpp"
#include "engine/memory_table.hpp"
#include "engine/options.hpp"
#include "engine/proofs.hpp"
#include "engine/sinks.hpp"
#include "engine/transfer.hpp"
#include "protocol/exchange.hpp"
#include "transport/samehost/server.hpp"

namespace mc {

// What engine.peers() tells of one session.
struct PeerInfo {
    std::string address;
    std::string instance;            // 32 hexadecimal digits; empty before the handshake
    std::string state;               // "connecting", "linking", "ready"
    std::string path;                // how bytes go: "cma and shm", "tcp (4 lanes)"...
    std::vector<std::string> notes;  // why better paths are not used
    bool outgoing = false;
    std::array<std::uint64_t, kPathKinds> bytes{};  // moved to and from this peer, by path
};

// Carries out what the protocol asks for: connections, paths, sinks, the timer. Everything happens
// in the control thread, but for start(), stop() and what says otherwise.
class Driver final : public Actions {
  public:
    Driver(const EngineOptions& options, InstanceId instance, Log& log, Completions& completions,
           MemoryTable& memory);
    ~Driver() override;

    Status start();
    void stop();  // ends all sessions and transfers, joins all threads; idempotent

    EventLoop& loop() { return control_; }
    Exchange& exchange() { return *exchange_; }
    [[nodiscard]] const std::string& address() const { return address_; }  // after start()

    ProofQueue& proofs() { return proofs_; }  // thread-safe

    void add_transfer(std::shared_ptr<Transfer> added);
    std::vector<PeerInfo> peers();
    [[nodiscard]] std::uint64_t same_host_over_tcp() const { return same_host_over_tcp_; }

    // Actions.
    Instant time() override { return now(); }
    void wake_at(Instant when) override;
    void connect(SessionId session, const std::string& address) override;
    void send(SessionId session, const Message& message) override;
    void close(SessionId session, const Status& reason) override;
    void authenticate(SessionId session, AuthenticationRequest request) override;
    void link(const Session& session) override;
    bool can_pull(SessionId session) override;
    void ship(const Shipment& shipment) override;
    std::uint32_t end_lanes(SessionId session, GrantId grant, std::uint32_t epoch) override;
    void close_source(TransferId send) override;
    void matched(TransferId send, SessionId session,
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
    void open_internal(TransferId id, bool sends) override;
    void complete(TransferId id, const Status& outcome) override;

  private:
    // A shipment for which no path is there yet.
    struct Waiting {
        Shipment shipment;
        std::vector<std::int32_t> pages;
    };
    struct Peer {
        std::string address;
        std::shared_ptr<ControlChannel> channel;
        std::shared_ptr<SessionSinks> sinks;
        std::unique_ptr<Links> links;
        Token link_token;
        std::vector<std::string> notes;
        std::deque<Waiting> waiting;
        std::unordered_map<GrantId, std::vector<PathHandle>>
            used;  // push paths, in the present epoch
        std::array<std::uint64_t, kPathKinds> bytes{};
        bool path_logged = false;
    };

    Peer* find(SessionId id);
    Peer& make_peer(SessionId id, const std::string& address);
    void attach_channel(SessionId id, FileDescriptor socket);
    void accepted(FileDescriptor socket, const Preamble& preamble);
    void accepted_same_host(const Token& token, SameHostLink link);
    [[nodiscard]] std::optional<unsigned> node_of_pools() const;
    void linked(SessionId id, LinkOffer offer);
    Status add_same_host(Peer& peer, SameHostLink link);
    void links_changed(Peer& peer);
    void path_broke(SessionId id, const Status& reason);
    void session_lost(SessionId id, const Status& reason);
    void log_path(Peer& peer);
    void tick();

    void ship_after_digest(const Shipment& shipment);
    void ship_now(const Shipment& shipment);
    bool try_ship(Peer& peer, const Shipment& shipment);
    void send_ready(Peer& peer, const Shipment& shipment, Transfer& sent);
    void send_inline(Peer& peer, const Shipment& shipment, const std::shared_ptr<Transfer>& sent);
    void push(Peer& peer, const Shipment& shipment, const std::shared_ptr<Transfer>& sent);
    void answer_shipped(const Shipment& shipment, const Status& outcome, std::uint64_t bytes);
    std::shared_ptr<GrantSink> sink(GrantId grant);
    std::shared_ptr<Transfer> transfer(TransferId id);

    const EngineOptions& options_;
    Log& log_;
    Completions& completions_;
    MemoryTable& memory_;
    const InstanceId instance_;
    std::string address_;
    EventLoop control_;
    Loops io_, copy_;
    ProofQueue proofs_;
    Background background_;
    std::unique_ptr<Acceptor> acceptor_;
    std::unique_ptr<SameHostServer> same_host_server_;
    std::unique_ptr<Exchange> exchange_;
    std::unordered_map<SessionId, Peer> peers_;
    struct LinkToken {
        SessionId session;
        int links_left = 0;  // same-host links that may still present it
        int lanes_left = 0;  // and lanes
    };
    std::unordered_map<Token, LinkToken> tokens_;  // ours
    std::unordered_map<TransferId, std::shared_ptr<Transfer>> transfers_;
    struct OpenSink {
        SessionId session;
        std::shared_ptr<GrantSink> sink;
    };
    std::unordered_map<GrantId, OpenSink> sinks_;
    std::optional<Instant> wake_;
    std::uint64_t same_host_over_tcp_ = 0;  // sessions that were logged as such
    bool stopped_ = false;
};

}  // namespace mc
