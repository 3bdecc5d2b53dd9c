// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <variant>

namespace mc {

// What kind of failure it is; the Python exception tree mirrors this list (bindings/errors).
enum class Code : std::uint8_t {
    ok = 0,
    invalid_argument,
    layout_mismatch,
    unreachable,
    authentication_failed,
    timeout,
    aborted,
    peer_restarted,
    peer_lost,
    protocol,
    resource_exhausted,
    unsupported,
    internal,
};

std::string_view to_string(Code code);

// The outcome of an operation: a code and a sentence, with the outcome that caused it behind it.
// Success costs one null pointer. Copies share the text.
class [[nodiscard]] Status {
  public:
    Status() = default;
    Status(Code code, std::string message);

    // The same failure seen from one level up: "<context>: <message of the cause>".
    [[nodiscard]] Status with_context(std::string_view context) const;

    [[nodiscard]] bool ok() const { return failure_ == nullptr; }
    explicit operator bool() const { return ok(); }
    [[nodiscard]] Code code() const { return failure_ ? failure_->code : Code::ok; }
    [[nodiscard]] const std::string& message() const;

    // "<code>: <message>", for logs.
    [[nodiscard]] std::string to_string() const;

  private:
    struct Failure {
        Code code;
        std::string message;
    };
    std::shared_ptr<const Failure> failure_;
};

// "<what>: <strerror(error)>", with the code that fits the errno value.
Status errno_status(std::string_view what, int error);

// A value or the Status that says why there is none.
template <typename T>
class [[nodiscard]] Result {
  public:
    // Implicit, so that a function can return either.
    Result(T value)  // NOLINT(google-explicit-constructor)
        : state_(std::in_place_index<0>, std::move(value)) {}
    Result(Status failure)  // NOLINT(google-explicit-constructor)
        : state_(std::in_place_index<1>, std::move(failure)) {}

    [[nodiscard]] bool ok() const { return state_.index() == 0; }
    explicit operator bool() const { return ok(); }
    [[nodiscard]] Status status() const { return ok() ? Status() : std::get<1>(state_); }

    T& operator*() & { return std::get<0>(state_); }
    const T& operator*() const& { return std::get<0>(state_); }
    T&& operator*() && { return std::get<0>(std::move(state_)); }
    T* operator->() { return &std::get<0>(state_); }
    const T* operator->() const { return &std::get<0>(state_); }

  private:
    std::variant<T, Status> state_;
};

}  // namespace mc

// Leaves the function with the failure, if there is one.
#define MC_RETURN_IF_ERROR(expression)                                           \
    do {                                                                         \
        if (::mc::Status mc_status = (expression); !mc_status) return mc_status; \
    } while (false)
