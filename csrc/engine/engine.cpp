// SPDX-License-Identifier: Apache-2.0
#include "engine/engine.hpp"

#include <sys/prctl.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <future>
#include <random>
#include <set>
#include <utility>

namespace mc {

namespace {

std::uint64_t random_number() {
    const Token token = Token::random();
    std::uint64_t value = 0;
    std::memcpy(&value, token.bytes.data(), sizeof(value));
    return value;
}

}  // namespace

Engine::Engine(EngineOptions options)
    : options_(std::move(options)),
      process_(::getpid()),
      first_request_(random_number()),
      log_(options_.log_level),
      completions_(options_.busy_poll) {}

Result<std::unique_ptr<Engine>> Engine::create(EngineOptions options) {
    // Yama's mode 1 lets only a parent read a process, unless that process names others; "any" is
    // all that one engine can name for peers that it does not know yet. Elsewhere the call fails
    // idly.
    if (options.cma_any) (void)::prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY, 0, 0, 0);
    std::unique_ptr<Engine> engine(new Engine(std::move(options)));
    engine->driver_ = std::make_unique<Driver>(engine->options_, engine->instance_, engine->log_,
                                               engine->completions_, engine->memory_);
    MC_RETURN_IF_ERROR(engine->driver_->start());
    return engine;
}

Engine::~Engine() { close(); }

void Engine::close() {
    // A forked child has none of the engine's threads; there is nothing to end.
    if (::getpid() != process_) {
        driver_.release();  // NOLINT(bugprone-unused-return-value)
        return;
    }
    if (!closed_.exchange(true) && driver_) driver_->stop();
}

Status Engine::usable() const {
    if (closed_.load(std::memory_order_relaxed)) return {Code::aborted, "the engine is closed"};
    if (::getpid() != process_) {
        return {Code::unsupported,
                "this engine was made in process " + std::to_string(process_) +
                    " and does not exist in a forked child; make one after the fork"};
    }
    return {};
}

const Pool* Engine::pool(const std::string& name) const {
    const std::lock_guard lock(mutex_);
    const auto found = pools_.find(name);
    return found == pools_.end() ? nullptr : found->second.get();  // pools are never removed
}

Status Engine::register_pool(const Pool& added) {
    MC_RETURN_IF_ERROR(usable());
    MC_RETURN_IF_ERROR(validate(added));
    if (added.name.empty() || added.name.size() > kMaxNameBytes)
        return {Code::invalid_argument,
                "a pool needs a name of 1 to " + std::to_string(kMaxNameBytes) + " bytes"};
    if (added.memory.type != MemoryKind::Type::host) {
        return {
            Code::unsupported,
            "pool \"" + added.name + "\" lies in device memory, for which this build has no path"};
    }
    {
        const std::lock_guard lock(mutex_);
        if (pools_.size() >= kMaxPools) return {Code::resource_exhausted, "too many pools"};
        if (!pools_.try_emplace(added.name, std::make_unique<const Pool>(added)).second) {
            return {Code::invalid_argument,
                    "a pool named \"" + added.name + "\" is registered already"};
        }
    }
    return submit([this, added] { driver_->exchange().sessions().add_pool(added); });
}

Status Engine::register_memory(const MemoryTable::Region& region) {
    MC_RETURN_IF_ERROR(usable());
    if (region.memory.type != MemoryKind::Type::host)
        return {Code::unsupported, "device memory, for which this build has no path"};
    return memory_.add(region);
}

Status Engine::unregister_memory(std::uint64_t address) {
    MC_RETURN_IF_ERROR(usable());
    return memory_.remove(address);
}

Status Engine::submit(EventLoop::Task task) {
    // Another thread may have closed the engine since usable() was asked.
    if (driver_->loop().post(std::move(task))) return {};
    return {Code::aborted, "the engine is closed"};
}

template <typename Answer>
Result<Answer> Engine::ask(std::function<Answer()> question) {
    MC_RETURN_IF_ERROR(usable());
    std::promise<Answer> answer;
    auto future = answer.get_future();
    MC_RETURN_IF_ERROR(submit([&] { answer.set_value(question()); }));
    return future.get();
}

std::shared_ptr<Transfer> Engine::make(TransferKind kind) {
    return std::make_shared<Transfer>(TransferId{next_id_.fetch_add(1, std::memory_order_relaxed)},
                                      kind);
}

Status Engine::check_ids(const PoolPages& pages) const {
    const Pool* known = pool(pages.pool);
    if (known == nullptr)
        return {Code::invalid_argument, "pool \"" + pages.pool + "\" is not registered"};
    // A negative id becomes one larger than any page count. The loop is vectorised.
    std::uint32_t largest = 0;
    for (const std::int32_t page : pages.pages)
        largest = std::max(largest, static_cast<std::uint32_t>(page));
    if (largest < known->page_count) return {};
    // The null page may lie outside of the pool.
    const auto wrong = std::find_if(pages.pages.begin(), pages.pages.end(), [&](std::int32_t page) {
        return page != known->null_page && static_cast<std::uint32_t>(page) >= known->page_count;
    });
    if (wrong == pages.pages.end()) return {};
    return {Code::invalid_argument, "page " + std::to_string(*wrong) + " is not one of the " +
                                        std::to_string(known->page_count) + " pages of pool \"" +
                                        pages.pool + "\""};
}

Status Engine::check(const PoolPages& pages) const {
    MC_RETURN_IF_ERROR(check_ids(pages));
    const std::uint32_t page_size = pool(pages.pool)->page_size;
    if (pages.first_token % page_size == 0) return {};
    return {Code::invalid_argument, "first_token=" + std::to_string(pages.first_token) +
                                        " does not begin a page of " + std::to_string(page_size) +
                                        " tokens of pool \"" + pages.pool + "\""};
}

Result<std::shared_ptr<Transfer>> Engine::send(std::string tag, Duration patience) {
    MC_RETURN_IF_ERROR(usable());
    if (tag.empty() || tag.size() > kMaxTagBytes)
        return Status(Code::invalid_argument,
                      "a tag has 1 to " + std::to_string(kMaxTagBytes) + " bytes");
    auto transfer = make(TransferKind::send);
    MC_RETURN_IF_ERROR(submit([this, transfer, tag = std::move(tag), patience] {
        driver_->add_transfer(transfer);
        driver_->exchange().senders().open(transfer->id, tag, patience);
    }));
    return transfer;
}

Status Engine::append(const Transfer& send, PoolPages pages) {
    MC_RETURN_IF_ERROR(usable());
    MC_RETURN_IF_ERROR(check(pages));
    const Pool* known = pool(pages.pool);
    return submit([this, id = send.id, known, pages = std::move(pages)] {
        driver_->exchange().senders().append(id, *known, pages.pages, pages.first_token);
    });
}

Status Engine::mark_ready(const Transfer& send, std::uint32_t tokens) {
    MC_RETURN_IF_ERROR(usable());
    return submit(
        [this, id = send.id, tokens] { driver_->exchange().senders().mark_ready(id, tokens); });
}

Status Engine::rewind(Transfer& send, std::uint32_t tokens) {
    MC_RETURN_IF_ERROR(usable());
    // At once, in the caller's thread: when this returns, what is read from the pages is void.
    const std::uint32_t epoch = send.source.take_back();
    return submit([this, id = send.id, tokens, epoch] {
        driver_->exchange().senders().rewind(id, tokens, epoch);
    });
}

Status Engine::finish(const Transfer& send, std::vector<PoolPages> final_parts) {
    MC_RETURN_IF_ERROR(usable());
    for (const PoolPages& part : final_parts) MC_RETURN_IF_ERROR(check(part));
    return submit([this, id = send.id, final_parts = std::move(final_parts)] {
        Senders& senders = driver_->exchange().senders();
        for (const PoolPages& part : final_parts)
            senders.append_final(id, *pool(part.pool), part.pages, part.first_token);
        senders.finish(id);
    });
}

Status Engine::abort(const Transfer& send, std::string reason) {
    MC_RETURN_IF_ERROR(usable());
    return submit([this, id = send.id, reason = std::move(reason)] {
        driver_->exchange().senders().abort(id, Status(Code::aborted, reason));
    });
}

Status Engine::check_recv(const RecvOptions& options) const {
    if (options.tag.empty() || options.tag.size() > kMaxTagBytes) {
        return {Code::invalid_argument,
                "a tag has 1 to " + std::to_string(kMaxTagBytes) + " bytes"};
    }
    if (options.senders.empty())
        return {Code::invalid_argument, "a recv needs the address of a sender"};
    std::set<std::string> senders;
    for (const std::string& sender : options.senders) {
        if (const auto address = parse_host_port(sender); !address) return address.status();
        if (!senders.insert(sender).second)
            return {Code::invalid_argument, "the sender " + sender + " is named twice"};
    }
    if (options.receiver_index >= options.receiver_count) {
        return {Code::invalid_argument, "receiver_index must be less than receiver_count"};
    }
    if (!options.parts.empty() && options.first_token >= options.tokens) {
        return {Code::invalid_argument, "first_token=" + std::to_string(options.first_token) +
                                            " leaves none of " + std::to_string(options.tokens) +
                                            " tokens; to release the sender, pass no parts"};
    }
    for (const PoolPages& part : options.parts) {
        MC_RETURN_IF_ERROR(check_ids(part));
        const std::uint32_t page_size = pool(part.pool)->page_size;
        const std::uint64_t end = part.first_token - part.first_token % page_size +
                                  std::uint64_t{part.pages.size()} * page_size;
        if (end < options.tokens) {
            return {Code::invalid_argument,
                    std::to_string(part.pages.size()) + " pages of pool \"" + part.pool +
                        "\" hold the tokens before " + std::to_string(end) + ", not all up to " +
                        std::to_string(options.tokens)};
        }
    }
    for (const PoolPages& row : options.rows) MC_RETURN_IF_ERROR(check_ids(row));
    return {};
}

RecvRequest Engine::make_request(TransferId id, RecvOptions options) const {
    RecvRequest request;
    request.id = id;
    request.tag = std::move(options.tag);
    // Requests of several engines may meet at one sender, hence the random part.
    request.request = options.request != 0 ? options.request : first_request_ + id.value;
    request.receiver_index = options.receiver_index;
    request.receiver_count = options.receiver_count;
    request.senders = std::move(options.senders);
    request.deadline = options.deadline;
    const auto add = [&](const PoolPages& part, TokenRange range) {
        const Pool& known = *pool(part.pool);
        auto table = std::make_shared<PageTable>(known.page_size, known.page_count, known.null_page,
                                                 range.first - range.first % known.page_size);
        (void)table->append(part.pages);  // the page ids were checked
        std::vector<TokenRange> wanted = table->present(range);
        request.parts.push_back({part.pool, std::move(table), std::move(wanted)});
    };
    for (const PoolPages& part : options.parts) add(part, {part.first_token, options.tokens});
    for (const PoolPages& row : options.rows)
        add(row, {0, static_cast<std::uint32_t>(row.pages.size())});
    return request;
}

Result<std::shared_ptr<Transfer>> Engine::recv(RecvOptions options) {
    MC_RETURN_IF_ERROR(usable());
    for (PoolPages& part : options.parts)
        part.first_token = std::max(part.first_token, options.first_token);
    MC_RETURN_IF_ERROR(check_recv(options));
    auto transfer = make(TransferKind::recv);
    // What grows with the number of pages happens in the control thread, not in the caller's step.
    MC_RETURN_IF_ERROR(submit([this, transfer, options = std::move(options)]() mutable {
        driver_->add_transfer(transfer);
        driver_->exchange().receivers().open(make_request(transfer->id, std::move(options)));
    }));
    return transfer;
}

Status Engine::cancel(const Transfer& transfer) {
    MC_RETURN_IF_ERROR(usable());
    return submit([this, id = transfer.id] {
        const Status reason(Code::aborted, "cancelled by this side");
        driver_->exchange().receivers().cancel(id, reason);
        driver_->exchange().senders().abort(id, reason);
    });
}

Status Engine::check_lists(std::span<const Segment> local, std::span<const Segment> remote) const {
    if (local.empty() || local.size() > kMaxSegments || remote.size() > kMaxSegments) {
        return {Code::invalid_argument,
                "a one-sided list has 1 to " + std::to_string(kMaxSegments) + " segments"};
    }
    for (std::size_t i = 0; i < local.size(); ++i) {
        if (local[i].length == 0 || local[i].length != remote[i].length)
            return {Code::invalid_argument, "lengths must be positive"};
    }
    return memory_.check(local, MemoryTable::Access::local);
}

Result<std::shared_ptr<Transfer>> Engine::write(std::string address, std::vector<Segment> source,
                                                std::vector<Segment> destination,
                                                Duration deadline) {
    MC_RETURN_IF_ERROR(usable());
    MC_RETURN_IF_ERROR(check_lists(source, destination));
    if (const auto parsed = parse_host_port(address); !parsed) return parsed.status();
    auto transfer = make(TransferKind::write);
    MC_RETURN_IF_ERROR(
        submit([this, transfer, address = std::move(address), source = std::move(source),
                destination = std::move(destination), deadline]() mutable {
            driver_->add_transfer(transfer);
            driver_->exchange().senders().write(transfer->id, address, std::move(source),
                                                std::move(destination), deadline);
        }));
    return transfer;
}

Result<std::shared_ptr<Transfer>> Engine::read(std::string address, std::vector<Segment> source,
                                               std::vector<Segment> destination,
                                               Duration deadline) {
    MC_RETURN_IF_ERROR(usable());
    MC_RETURN_IF_ERROR(check_lists(destination, source));
    if (const auto parsed = parse_host_port(address); !parsed) return parsed.status();
    auto transfer = make(TransferKind::read);
    MC_RETURN_IF_ERROR(
        submit([this, transfer, address = std::move(address), source = std::move(source),
                destination = std::move(destination), deadline]() mutable {
            driver_->add_transfer(transfer);
            driver_->exchange().receivers().read(transfer->id, address, std::move(source),
                                                 std::move(destination), deadline);
        }));
    return transfer;
}

Status Engine::answer_proof(SessionId session, const Result<Proof>& answer) {
    return submit([this, session, answer] { driver_->exchange().authenticated(session, answer); });
}

Result<std::vector<PeerInfo>> Engine::peers() {
    return ask<std::vector<PeerInfo>>([this] { return driver_->peers(); });
}

Result<Engine::Stats> Engine::stats() {
    return ask<Stats>([this] {
        Exchange& exchange = driver_->exchange();
        return Stats{exchange.senders().size(),   exchange.receivers().size(),
                     exchange.senders().grants(), exchange.receivers().grants(),
                     exchange.senders().parked(), driver_->same_host_over_tcp()};
    });
}

}  // namespace mc
