// SPDX-License-Identifier: Apache-2.0
#include "transport/local/local_path.hpp"

#include <cstring>
#include <memory>
#include <utility>

#include "transport/cma/guard.hpp"

namespace mc {
namespace {

Status source_taken_back() { return {Code::aborted, "the sender has taken its pages back"}; }

}  // namespace

LocalPath::LocalPath(EventLoop& loop, OnFailure on_failure)
    : PullPath(loop, std::move(on_failure)) {}

LocalPath::~LocalPath() { close(Status(Code::aborted, "the local path was taken down")); }

Status LocalPath::read(const Pull& job, std::span<const Span> spans) {
    const std::shared_ptr<Hold> source = Guard::find_hold(job.guard, job.expected);
    if (!source) return source_taken_back();
    const HoldVisit visit(*source, job.piece.epoch);
    if (!visit) return source_taken_back();
    for (const Span& span : spans) {
        std::memcpy(reinterpret_cast<void*>(span.destination),
                    reinterpret_cast<const void*>(span.source), span.length);
    }
    return {};
}

}  // namespace mc
