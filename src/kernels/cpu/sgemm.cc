#include "kernels/cpu/sgemm.h"

#include <omp.h>
#include <oneapi/dnnl/dnnl.h>

#include <string>

#include "base/error.h"

namespace onggi::cpu {

void sgemm(const SgemmArgs& args) {
  if (args.m == 0 || args.n == 0) return;
  omp_set_num_threads(1);  // per calling thread, a few nanoseconds
  const dnnl_status_t status =
      dnnl_sgemm(args.transpose_a == Transpose::kYes ? 'T' : 'N',
                 args.transpose_b == Transpose::kYes ? 'T' : 'N', args.m, args.n, args.k, args.alpha, args.a,
                 args.a_row, args.b, args.b_row, args.accumulate ? 1.0f : 0.0f, args.c, args.c_row);
  ONGGI_CHECK(status == dnnl_success, "dnnl_sgemm: " + std::to_string(status));
}

}  // namespace onggi::cpu
