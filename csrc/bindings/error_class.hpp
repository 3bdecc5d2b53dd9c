// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "core/status.hpp"

namespace mc {

// The class in mooncake_connector.errors that stands for a failure of this kind.
constexpr const char* error_class(Code code) {
    switch (code) {
        case Code::invalid_argument: return "ConfigError";
        case Code::layout_mismatch: return "LayoutMismatch";
        case Code::unreachable: return "PeerUnreachable";
        case Code::authentication_failed: return "AuthenticationFailed";
        case Code::timeout: return "TransferTimeout";
        case Code::aborted: return "TransferAborted";
        case Code::peer_restarted: return "PeerRestarted";
        case Code::peer_lost: return "PeerLost";
        case Code::protocol: return "ProtocolError";
        case Code::resource_exhausted: return "ResourceExhausted";
        case Code::unsupported: return "UnsupportedError";
        case Code::ok:
        case Code::internal: break;
    }
    return "MooncakeConnectorError";
}

}  // namespace mc
