// SPDX-License-Identifier: Apache-2.0
#include "transport/spare_descriptor.hpp"

#include <fcntl.h>
#include <sys/socket.h>

namespace mc {

void SpareDescriptor::keep() {
    if (!spare_) spare_.reset(::open("/dev/null", O_RDONLY | O_CLOEXEC));
}

bool SpareDescriptor::refuse_one(int listener) {
    spare_.reset();
    const bool refused =
        static_cast<bool>(FileDescriptor(::accept4(listener, nullptr, nullptr, SOCK_CLOEXEC)));
    keep();
    return refused;
}

}  // namespace mc
