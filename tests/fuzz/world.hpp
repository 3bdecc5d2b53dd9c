// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "core/log.hpp"
#include "engine/sinks.hpp"
#include "engine/transfer.hpp"
#include "protocol/exchange.hpp"
#include "protocol/ledger.hpp"
#include "transport/arrival.hpp"

namespace mc::fuzz {

// How something that the engine's threads were asked to do ends.
enum class Verdict : std::uint8_t { done, taken_back, broken };

// Memory of one pool. What is free, or belongs to a send, is full of a byte that nobody may change.
class Pages {
  public:
    Pages(const std::string& name, std::uint32_t page_size, std::uint32_t page_count);
    Pages(Pages&&) = default;

    [[nodiscard]] const Pool& pool() const { return pool_; }
    // At most `count` free pages, fewer when there are no more.
    std::vector<std::int32_t> take(std::size_t count);
    // `written`: a receiver's, into which bytes may have been placed.
    void give_back(const std::vector<std::int32_t>& pages, bool written);
    // Fails if a byte of a free page was changed.
    void check_free() const;

  private:
    void check_untouched(std::int32_t page) const;

    Pool pool_;
    std::vector<std::vector<std::uint8_t>> planes_;
    std::vector<std::int32_t> free_;
};

// One engine's Exchange with the surroundings that the engine gives it, but for sockets and
// threads: real pages, sinks and the receiving end of a lane, whose peers say what the fuzzer
// likes. Whatever the engine's threads would do is owed until answer() picks it. audit() checks
// what has to hold at all times, wind_down() what has to hold when everything has been given up.
class World final : public Actions {
  public:
    struct Options {
        ProtocolOptions protocol;
        std::map<Token, std::uint64_t> secrets;  // by the key's id
        std::string address = "world:1";
        bool can_pull = true;
        bool keeps_books = true;  // the Ledger; not while handshakes hold messages back
    };
    explicit World(Options options);

    [[nodiscard]] Exchange& exchange() { return *exchange_; }
    [[nodiscard]] const Hello& self() const { return exchange_->sessions().self(); }
    Pages& pages(const std::string& pool) { return pages_.at(pool); }

    // Peers.
    SessionId accept();
    void dialled(SessionId session, bool reached);
    void hear(SessionId session, const Message& message);
    void hear_malformed(SessionId session, const Status& reason);
    // A batch on a lane of this session: its header, then as much of what follows as is given.
    void hear_batch(SessionId session, const BatchHeader& header,
                    std::span<const std::uint8_t> bytes);
    void hang_up(SessionId session);
    [[nodiscard]] std::vector<SessionId> dialling() const;
    [[nodiscard]] std::vector<SessionId> connected() const;
    // What is said to peers, in order; and the last of it.
    struct Said {
        SessionId session;
        Message message;
    };
    std::function<void(SessionId, const Message&)> on_send;
    [[nodiscard]] const std::deque<Said>& said() const { return said_; }

    // What is owed, and the time.
    [[nodiscard]] std::size_t owed() const { return owed_.size(); }
    void answer(std::size_t index, Verdict verdict);
    void pass(Duration time);

    // Transfers of the local owner.
    TransferId open_send(const std::string& tag, Duration patience);
    void append(TransferId send, std::size_t pages);
    void mark_ready(TransferId send, std::uint32_t tokens);
    void rewind(TransferId send, std::uint32_t tokens);
    void append_rows(TransferId send, std::size_t rows);
    void open_recv(RecvRequest request, std::size_t pages, std::size_t rows,
                   std::vector<TokenRange> wanted);
    TransferId next_transfer();
    void started(TransferId id, TransferKind kind);  // a read or write
    [[nodiscard]] std::vector<TransferId> open() const;
    [[nodiscard]] std::size_t transfers() const { return transfers_.size(); }
    // Registered for one-sided access.
    static constexpr std::size_t kRegistered = 256;
    [[nodiscard]] std::uint64_t readable() const { return address_of(readable_); }
    [[nodiscard]] std::uint64_t writable() const { return address_of(writable_); }

    void audit();
    void wind_down();

    // Actions.
    Instant time() override { return now_; }
    void wake_at(Instant when) override { wake_ = std::min(wake_, when); }
    void connect(SessionId session, const std::string& address) override;
    void send(SessionId session, const Message& message) override;
    void close(SessionId session, const Status& reason) override;
    void authenticate(SessionId session, AuthenticationRequest request) override;
    void link(const Session& session) override;
    bool can_pull(SessionId) override { return options_.can_pull; }
    void ship(const Shipment& shipment) override;
    std::uint32_t end_lanes(SessionId session, GrantId grant, std::uint32_t epoch) override;
    void close_source(TransferId send) override;
    void matched(TransferId, SessionId, std::optional<std::uint32_t>) override {}
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
    struct Peer {
        std::shared_ptr<SessionSinks> sinks;
        std::unique_ptr<Arrival> lane;
        std::set<GrantId> used_lanes;
    };
    struct Local {
        std::shared_ptr<Transfer> transfer;
        std::map<std::string, std::vector<std::int32_t>> pages;  // by pool
    };
    struct OpenSink {
        SessionId session;
        std::shared_ptr<GrantSink> sink;
    };
    static std::uint64_t address_of(const std::vector<std::uint8_t>& bytes) {
        return reinterpret_cast<std::uint64_t>(bytes.data());
    }
    void owe(std::function<void(Verdict)> what) { owed_.push_back(std::move(what)); }
    void attach(SessionId session);
    void detach(SessionId session);
    void tick();

    const Options options_;
    Instant now_{std::chrono::seconds(1000)};
    Instant wake_ = Instant::max();
    std::vector<std::function<void(Verdict)>> owed_;
    std::map<std::string, Pages> pages_;
    std::vector<std::uint8_t> readable_ = std::vector<std::uint8_t>(kRegistered);
    std::vector<std::uint8_t> writable_ = std::vector<std::uint8_t>(kRegistered);
    Log log_{LogLevel::error};
    std::unique_ptr<Exchange> exchange_;
    static constexpr std::size_t kRemembered = 32;
    std::deque<Said> said_;
    std::set<SessionId> dialling_;
    std::map<SessionId, Peer> peers_;
    std::uint64_t next_transfer_ = 1;
    std::map<TransferId, Local> transfers_;
    std::map<GrantId, OpenSink> sinks_;
    std::set<GrantId> closing_;  // sinks that were told to
    simulation::Ledger ledger_{"the engine"};
};

// Stands in for HMAC: what the fuzzer cannot compute.
Proof toy_proof(std::uint64_t secret, const Bytes& statement);

}  // namespace mc::fuzz
