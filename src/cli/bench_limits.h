// What the machine can do, measured in the same run: the bounds that figures of `onggi bench` are held
// against.
#pragma once

#include "base/threads.h"
#include "device/stream.h"
#include "model/model.h"

namespace onggi {

// A large product in bf16 where there is such arithmetic, on random values: operations per second.
double product_rate(const Compute& compute);
// Copies within a GPU's memory: bytes read and written per second.
double copy_rate(Stream& stream);
// Reading memory with all threads: bytes per second.
double read_rate(ThreadPool& threads);

}  // namespace onggi
