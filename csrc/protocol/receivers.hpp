// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "protocol/actions.hpp"
#include "protocol/sessions.hpp"

namespace mc {

// What one recv wants of one pool: pages that hold the tokens `wanted`.
struct RecvPages {
    std::string pool;  // a registered pool of this engine; the senders' pool has the same name
    std::shared_ptr<const PageTable> pages;
    std::vector<TokenRange> wanted;
};

struct RecvRequest {
    TransferId id;
    std::string tag;
    std::uint64_t request = 0;  // the same for all receivers (ranks) of one request
    std::uint32_t receiver_index = 0;
    std::uint32_t receiver_count = 1;
    std::vector<std::string> senders;  // addresses
    std::vector<RecvPages> parts;      // empty: release
    Duration deadline{};
};

// The receiving half of the protocol: a recv grants pages to its senders and completes when all of
// them have delivered, and nobody can place a byte any more.
class Receivers {
  public:
    Receivers(Actions& actions, const ProtocolOptions& options, Sessions& sessions)
        : actions_(actions), options_(options), sessions_(sessions) {}

    void open(RecvRequest request);
    // One-sided read of `source` in the memory of the engine at `address`.
    void read(TransferId id, const std::string& address, std::vector<Segment> source,
              std::vector<Segment> destination, Duration deadline);
    void cancel(TransferId id, const Status& reason);

    void session_ready(Session& session);
    void session_closed(Session& session, const Status& reason);
    bool receive(Session& session, const Message& message);  // false: not a receiver's message
    // All batches of the grant's epoch on one lane of this session have been placed or dropped.
    void lane_ended(SessionId session, GrantId id, std::uint32_t epoch);
    void pulled(GrantId id, std::uint32_t epoch, const Status& outcome, std::uint64_t bytes);
    void verified(GrantId id, std::uint32_t epoch, const Status& outcome);
    void sink_closed(GrantId id);
    void tick(Instant now);

    [[nodiscard]] std::size_t size() const { return recvs_.size(); }
    [[nodiscard]] std::size_t grants() const { return grants_.size(); }

  private:
    struct Sender {
        std::string address;
        SessionId session;
        bool ended = false;  // delivered everything, or released
    };
    struct RecvState {
        RecvRequest request;
        std::vector<Sender> senders;
        bool started = false;         // all sessions were ready, grants were made
        std::vector<GrantId> grants;  // whose sinks are not closed yet
        std::size_t delivered = 0;    // senders that have
        Instant deadline;
        bool closing = false;
        Status outcome;
        // One-sided.
        std::shared_ptr<const Slice> list;  // the destination
        std::vector<Segment> source;        // read: in the peer
        TransferId write;                   // a peer's write: its number at the peer
    };
    // How one sender's pool pairs with ours; the same for all grants.
    struct Pairing {
        Pool peer;
        std::uint64_t token_bytes = 0;
        std::shared_ptr<const Walk> source, destination;
    };
    struct GrantPart {
        std::shared_ptr<const Pairing> pairing;
        std::shared_ptr<const PageTable> pages;
        std::vector<TokenRange> wanted;
    };
    struct Grant {
        GrantId id;
        TransferId recv;
        SessionId session;
        std::vector<GrantPart> parts;
        std::shared_ptr<const Slice> list;
        std::vector<Segment> list_source;  // one-sided: addresses in the peer, for pull paths
        bool asked = false;                // the sender has been told of it
        std::uint64_t expected = 0;        // bytes
        std::uint32_t epoch = 0;
        std::uint64_t offered = 0;      // bytes that READYs named in this epoch
        std::uint64_t pulled = 0;       // bytes in this epoch
        std::uint32_t pulls = 0;        // in flight, of any epoch
        std::uint32_t lanes_ended = 0;  // in this epoch
        bool overtaken = false;         // a read was void: the sender took its pages back meanwhile
        std::vector<SliceDigest> digests;  // of this epoch
        bool verifying = false;
        std::optional<Done> done;
        std::optional<Rewind> rewind;  // to be answered once nothing of the old epoch is under way
        bool closed = false;           // the sink is being closed
        bool sink_is_closed = false;
    };
    struct CachedPlan {
        SessionId session;
        PlanId id;                               // none: this sender has nothing that we want
        std::shared_ptr<const Pairing> pairing;  // likewise
    };

    void start_if_ready(TransferId id);
    Status start(RecvState& recv);
    Result<const std::vector<CachedPlan>*> plans_for(const RecvState& recv,
                                                     const std::string& name);
    Result<CachedPlan> announce_plan(SessionId id, const Pool& own, const Pool& peers,
                                     const Match& match);
    Grant& add_grant(RecvState& recv, SessionId session);
    void open_sink(const Grant& grant);
    // What a RECV, READ or WRITE_GRANT says of our side's contiguity; 0 if we cannot pull anyway.
    [[nodiscard]] std::uint64_t segment_hint(SessionId session, std::uint64_t mean);
    void ask(Session& session, Message recv_or_read);  // when there is credit for it
    void return_credit(Session& session, GrantId grant);
    Status start_pull(Grant& grant, const Ready& ready);
    void receive_rewind(Grant& grant, const Rewind& rewind);
    void finish_rewind(Grant& grant);
    void receive_write(Session& session, const Write& write);
    void check_delivered(Grant& grant);
    void deliver(Grant& grant);
    // Ends the recv badly. `failed_by_sender` is the grant whose sender knows already.
    void fail(TransferId id, const Status& reason, GrantId failed_by_sender = {});
    // Tells a sender that was never asked for anything that it need not keep its pages for us.
    void release(const RecvState& recv, const Sender& sender);
    void close_grant(Grant& grant);
    void end_if_closed(GrantId id);  // once nobody can place a byte any more
    void complete_if_closed(TransferId id);
    Grant* find(SessionId session, GrantId id);

    Actions& actions_;
    const ProtocolOptions& options_;
    Sessions& sessions_;
    std::unordered_map<TransferId, RecvState> recvs_;
    std::unordered_map<GrantId, Grant> grants_;
    std::unordered_map<std::string, std::vector<CachedPlan>> plans_;  // by pool and senders
    std::uint64_t next_grant_ = 1;
    std::uint64_t next_internal_ =
        kInternalTransfers + (kInternalTransfers >> 1);  // ids of peers' writes, and of releases
};

}  // namespace mc
