// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "input.hpp"
#include "protocol/messages.hpp"
#include "world.hpp"

namespace mc::fuzz {

// Messages of a peer that knows the engine it speaks to: numbers of grants and transfers that may
// be there, pools and plans that fit or nearly do.
Hello invent_hello(Input& input, World& world);
Message invent(Input& input, World& world);
// What a peer that keeps to the rules may answer to something that was said to it: without that,
// hardly an input would get as far as the end of a transfer.
Message answer_to(Input& input, World& world, const World::Said& said);
// A batch, or the end of one, as the answer to a RECV on a lane.
BatchHeader batch_for(Input& input, const Recv& recv);

}  // namespace mc::fuzz
