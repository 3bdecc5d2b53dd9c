// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <mutex>
#include <string>
#include <vector>

namespace mc {

enum class LogLevel : std::uint8_t { debug, info, warning, error };

struct LogLine {
    LogLevel level;
    std::string text;
};

// Keeps the engine's log lines until Python fetches them, because no engine thread may wait for
// the GIL. When nobody fetches, the oldest lines are dropped and counted.
class Log {
  public:
    explicit Log(LogLevel minimum = LogLevel::info) : minimum_(minimum) {}

    [[nodiscard]] bool enabled(LogLevel level) const { return level >= minimum_; }
    void write(LogLevel level, std::string text);
    std::vector<LogLine> take();  // oldest first; empties the store

  private:
    static constexpr std::size_t kCapacity = 4096;  // lines; bounds memory when nobody fetches

    const LogLevel minimum_;
    std::mutex mutex_;
    std::deque<LogLine> lines_;
    std::uint64_t dropped_ = 0;
};

}  // namespace mc
