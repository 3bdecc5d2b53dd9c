// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "transport/event_loop.hpp"

namespace mc {

// A descriptor in reserve. When a process has none left, a waiting connection can neither be
// accepted nor refused: its peer hangs, and its listener wakes the loop for ever. Giving the spare
// one up for a moment lets the connection be refused.
class SpareDescriptor {
  public:
    SpareDescriptor() { keep(); }
    // Closes one connection that waits at the listener. False: that was not possible.
    bool refuse_one(int listener);

  private:
    void keep();

    FileDescriptor spare_;
};

}  // namespace mc
