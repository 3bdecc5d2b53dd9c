// SPDX-License-Identifier: Apache-2.0
#include "transport/path.hpp"

namespace mc {

std::string_view to_string(PathKind kind) {
    switch (kind) {
        case PathKind::local: return "local";
        case PathKind::shm: return "shm";
        case PathKind::cma: return "cma";
        case PathKind::cuda_ipc: return "cuda_ipc";
        case PathKind::rdma: return "rdma";
        case PathKind::tcp: return "tcp";
    }
    return "unknown";
}

}  // namespace mc
