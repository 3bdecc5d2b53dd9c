// SPDX-License-Identifier: Apache-2.0
#include "core/log.hpp"

#include <iterator>

namespace mc {

void Log::write(LogLevel level, std::string text) {
    if (!enabled(level)) return;
    const std::lock_guard lock(mutex_);
    if (lines_.size() == kCapacity) {
        lines_.pop_front();
        ++dropped_;
    }
    lines_.push_back({level, std::move(text)});
}

std::vector<LogLine> Log::take() {
    std::vector<LogLine> lines;
    const std::lock_guard lock(mutex_);
    if (dropped_ > 0) {
        lines.push_back({LogLevel::warning,
                         std::to_string(dropped_) + " log lines were dropped: nobody polled"});
        dropped_ = 0;
    }
    lines.insert(lines.end(), std::make_move_iterator(lines_.begin()),
                 std::make_move_iterator(lines_.end()));
    lines_.clear();
    return lines;
}

}  // namespace mc
