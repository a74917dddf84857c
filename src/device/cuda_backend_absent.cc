// Stands in for the CUDA backend where it is not built.
#include "device/device.h"

namespace onggi {

bool cuda_backend_is_built() { return false; }

}  // namespace onggi
