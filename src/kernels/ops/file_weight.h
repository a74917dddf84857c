// Weights on their way from files to a device.
#pragma once

#include <cstdint>
#include <vector>

#include "base/file.h"
#include "kernels/ops/linear.h"

namespace onggi {

// A weight [N, K] as it lies in a file: plain types row-major, block types as rows of blocks. Not kNF4.
struct FileWeight {
  DType dtype = DType::kF32;
  int64_t rows = 0;     // N
  int64_t columns = 0;  // K
  const MappedFile* file = nullptr;
  uint64_t offset = 0;  // of its first byte in the file
};

// Where the time of loading went, in seconds; what goes on at the same time counts where it is waited for.
struct LoadTimes {
  double open = 0;       // the header, and the weights that are read otherwise
  double page_lock = 0;  // the first memory of the host through which files are copied
  double allocate = 0;   // memory of the device
  double read = 0;       // waiting for files to be read
  double copy = 0;       // waiting for copies to the device
  double queue = 0;      // telling the device what to do
  double give_back = 0;  // the host's memory
  double total = 0;
};

struct PlacedWeights {
  std::vector<WeightView> views;  // in the order that was asked for
  LoadTimes times;
};

}  // namespace onggi
