// SPDX-License-Identifier: Apache-2.0
#include "core/status.hpp"

#include <cerrno>
#include <cstring>
#include <system_error>

namespace mc {

std::string_view to_string(Code code) {
    switch (code) {
        case Code::ok: return "ok";
        case Code::invalid_argument: return "invalid argument";
        case Code::layout_mismatch: return "layout mismatch";
        case Code::unreachable: return "unreachable";
        case Code::authentication_failed: return "authentication failed";
        case Code::timeout: return "timeout";
        case Code::aborted: return "aborted";
        case Code::peer_restarted: return "peer restarted";
        case Code::peer_lost: return "peer lost";
        case Code::protocol: return "protocol error";
        case Code::resource_exhausted: return "resource exhausted";
        case Code::unsupported: return "unsupported";
        case Code::internal: return "internal error";
    }
    return "unknown";
}

Status::Status(Code code, std::string message)
    : failure_(std::make_shared<const Failure>(Failure{code, std::move(message)})) {}

Status Status::with_context(std::string_view context) const {
    if (ok()) return *this;
    return {failure_->code, std::string(context) + ": " + failure_->message};
}

const std::string& Status::message() const {
    static const std::string empty;
    return failure_ ? failure_->message : empty;
}

std::string Status::to_string() const {
    if (ok()) return "ok";
    return std::string(mc::to_string(failure_->code)) + ": " + failure_->message;
}

Status errno_status(std::string_view what, int error) {
    Code code = Code::internal;
    switch (error) {
        case ECONNREFUSED:
        case EHOSTUNREACH:
        case ENETUNREACH:
        case EADDRNOTAVAIL: code = Code::unreachable; break;
        case ETIMEDOUT: code = Code::timeout; break;
        case ECONNRESET:
        case EPIPE:
        case ESRCH: code = Code::peer_lost; break;
        case ENOMEM:
        case EMFILE:
        case ENFILE:
        case ENOSPC: code = Code::resource_exhausted; break;
        case EINVAL:
        case EADDRINUSE:
        case EACCES:
        case EFAULT: code = Code::invalid_argument; break;
        case EPERM:
        case ENOSYS:
        case EOPNOTSUPP: code = Code::unsupported; break;
        default: break;
    }
    // std::generic_category is thread-safe where strerror is not.
    return {code, std::string(what) + ": " + std::generic_category().message(error)};
}

}  // namespace mc
