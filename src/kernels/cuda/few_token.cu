#include <algorithm>
#include <limits>

#include "kernels/cuda/cuda.h"
#include "kernels/cuda/few_token.h"
#include "kernels/cuda/few_token_integer.h"
#include "kernels/cuda/few_token_lora.h"
#include "kernels/cuda/few_token_plan.h"
#include "kernels/cuda/nf4_tables.h"
#include "kernels/cuda/placed_layout.h"
#include "kernels/ops/weight.h"

namespace onggi::cuda {
namespace {

// More tokens are faster with dequantised weights: a launch for every 64 tokens reads the quantised weights
// once more, a library's product reads and writes 4 bytes a weight for it.
constexpr int64_t kMostTokens = 192;
constexpr int64_t kMostTokensPlain = 64;

// What is the same for linear and gated layers.
struct Request {
  const OpContext& context;
  const AdaptedLinearArgs& args;
  const GatedLinearArgs* gated;  // null: linear
  const FewTokenTuning& tuning;
};

bool has_lora(const AdaptedLinearArgs& args) {
  for (int i = 0; i < args.count; ++i)
    if (args.members[static_cast<size_t>(i)].lora.a != nullptr) return true;
  return false;
}

// Whether the kernels can and should compute it.
bool takes(const AdaptedLinearArgs& args) {
  if (args.tokens == 0 || args.tokens > kMostTokens || args.precision == Precision::kF32) return false;
  if (args.dropout.probability > 0 && has_lora(args)) return false;
  for (int i = 0; i < args.count; ++i) {
    const AdaptedLinearArgs::Member& member = args.members[static_cast<size_t>(i)];
    if (!member.lora_u.is_null() && member.lora.a != nullptr) return false;
    if (!is_weight_dtype(member.weight.dtype)) return false;
    if (!is_quantized(member.weight.dtype) && args.tokens > kMostTokensPlain) return false;
    if (member.weight.rows > std::numeric_limits<int>::max() / 2) return false;
    if (member.out.dtype != args.members[0].out.dtype) return false;
  }
  return true;
}

FewTokenMember member_of(const AdaptedLinearArgs::Member& member) {
  const WeightView& weight = member.weight;
  return {.data = static_cast<const uint8_t*>(weight.data),
          .nf4_absmax = weight.nf4_absmax,
          .nf4_nested = weight.nf4_nested_absmax,
          .nf4_offset = weight.nf4_offset,
          .dtype = weight.dtype,
          .rows = static_cast<int>(weight.rows),
          .tiles = static_cast<int>(row_tiles(weight.rows)),
          .first_row = 0,
          .rank = member.lora.a != nullptr ? static_cast<int>(member.lora.rank) : 0,
          .lora_scale = member.lora.scale,
          .lora_b = member.lora.b,
          .lora_u = nullptr,
          .out = member.out.data};
}

void set_input(FewTokenParams& p, ActivationView x, int64_t stride) {
  p.x = x.data;
  p.x_is_bf16 = x.dtype == DType::kBF16;
  p.x_stride = stride;
  p.x_has_vectors = reinterpret_cast<uintptr_t>(x.data) % 16 == 0 && stride % 8 == 0;
}

FewTokenParams params_of(const Request& request) {
  const AdaptedLinearArgs& args = request.args;
  FewTokenParams p{};
  p.columns = static_cast<int>(args.members[0].weight.columns);
  set_input(p, args.x, args.x_stride > 0 ? args.x_stride : p.columns);
  p.norm = args.norm;
  p.epsilon = args.epsilon;
  p.out_is_bf16 = args.members[0].out.dtype == DType::kBF16;
  p.member_count = args.count;
  int first_row = 0;
  bool has_nf4 = false;
  for (int i = 0; i < args.count; ++i) {
    FewTokenMember& member = p.members[i];
    member = member_of(args.members[static_cast<size_t>(i)]);
    ONGGI_CHECK(args.members[static_cast<size_t>(i)].weight.columns == p.columns, "members read one input");
    member.first_row = first_row;
    first_row += kTileRows * member.tiles;
    has_nf4 = has_nf4 || member.dtype == DType::kNF4;
  }
  p.partial_rows = first_row;
  p.residual = args.residual.data;
  ONGGI_CHECK(args.residual.is_null() || args.residual.dtype == args.members[0].out.dtype);
  if (request.gated != nullptr) {
    p.activate = Activate::kGate;
    p.gated_out = request.gated->out.data;
    p.out_is_bf16 = request.gated->out.dtype == DType::kBF16;
    p.gated_stride = request.gated->out_stride > 0 ? request.gated->out_stride : p.members[0].rows;
  }
  if (has_nf4) p.nf4_tables = nf4_tables(cuda_stream(request.context));
  return p;
}

// Working memory of a launch: u of each member, then the parts.
void take_scratch(CudaStream& stream, FewTokenParams& p) {
  size_t u_floats = 0;
  for (int i = 0; i < p.member_count; ++i)
    u_floats += (static_cast<size_t>(p.members[i].rank) * static_cast<size_t>(p.tokens) + 63) / 64 * 64;
  const size_t parts = static_cast<size_t>(p.partial_count) * static_cast<size_t>(p.tokens) *
                       static_cast<size_t>(p.partial_rows);
  if (u_floats + parts == 0) return;
  float* at = static_cast<float*>(stream.scratch((u_floats + parts) * sizeof(float)));
  for (int i = 0; i < p.member_count; ++i) {
    p.members[i].lora_u = at;
    at += (static_cast<size_t>(p.members[i].rank) * static_cast<size_t>(p.tokens) + 63) / 64 * 64;
  }
  p.partials = p.partial_count > 0 ? at : nullptr;
}

void queue_lora_input(const Request& request, CudaStream& stream, FewTokenParams& p) {
  FewTokenLoraArgs lora{.x = p.x,
                        .x_is_bf16 = p.x_is_bf16,
                        .x_stride = p.x_stride,
                        .norm = p.norm,
                        .epsilon = p.epsilon,
                        .tokens = p.tokens,
                        .columns = p.columns,
                        .count = p.member_count,
                        .members = {}};
  for (int i = 0; i < p.member_count; ++i)
    lora.members[i] = {.a = request.args.members[static_cast<size_t>(i)].lora.a,
                       .u = const_cast<float*>(p.members[i].lora_u),
                       .rank = p.members[i].rank};
  few_token_lora_input(stream, lora,
                       request.tuning.overlap_launches ? Overlap::kWithPrevious : Overlap::kNone);
  p.waits_late = request.tuning.overlap_launches;
}

void launch_tensor(CudaStream& stream, const FewTokenParams& p, const LaunchShape& shape) {
  if (p.tokens <= 2) return launch_few_token_2(stream, p, shape);
  if (p.tokens <= 8) return launch_few_token_8(stream, p, shape);
  if (p.tokens <= 32) return launch_few_token_32(stream, p, shape);
  launch_few_token_64(stream, p, shape);
}

// x becomes norm(x), in args.normed.
void queue_norm(const Request& request, FewTokenParams& p) {
  const AdaptedLinearArgs& args = request.args;
  ONGGI_CHECK(p.x_stride == p.columns, "what is yet to be normalised is dense");
  rms_norm(request.context, {.x = {p.x, args.x.dtype},
                             .weight = args.norm,
                             .tokens = p.tokens,
                             .width = p.columns,
                             .epsilon = args.epsilon,
                             .out = args.normed,
                             .inverse_rms = nullptr});
  set_input(p, args.normed, p.columns);
  p.norm = nullptr;
}

// Up to kFewTokenMost tokens. Nothing is queued before it is sure that it can be.
bool run_piece(const Request& request, FewTokenParams p) {
  CudaStream& stream = cuda_stream(request.context);
  const FewTokenMachine machine{stream.multiprocessors(), stream.max_shared_bytes(),
                                request.tuning.blocks_per_multiprocessor, request.tuning.ring_tiles};
  LaunchShape shape{};
  shape.overlap = request.tuning.overlap_launches ? Overlap::kWithPrevious : Overlap::kNone;
  FewTokenIntegerPlan integer_plan;
  const bool integers = request.tuning.products == FewTokenProducts::kIntegers &&
                        plan_few_token_integer(machine, p, integer_plan, shape);
  if (!integers && !plan_few_tokens(machine, p, shape)) return false;
  // Who writes parts of outputs has no use for the norm, and a block with a slice of x does not see it.
  if (p.norm != nullptr && has_parts(p)) {
    queue_norm(request, p);
    plan_few_tokens(machine, p, shape);
  }
  take_scratch(stream, p);
  if (has_lora(request.args)) queue_lora_input(request, stream, p);
  if (integers) {
    launch_few_token_integer(stream, p, integer_plan, shape);
    return true;
  }
  launch_tensor(stream, p, shape);
  if (p.partials != nullptr) launch_few_token_finish(stream, p, shape.overlap);
  return true;
}

// Moves the arguments to the tokens from `token` on.
FewTokenParams from_token(const Request& request, const FewTokenParams& all, int64_t token, int64_t count) {
  FewTokenParams p = all;
  p.tokens = static_cast<int>(count);
  const auto moved = [&](const void* data, bool is_bf16, int64_t stride) {
    return static_cast<const char*>(data) + token * stride * (is_bf16 ? 2 : 4);
  };
  p.x = moved(p.x, p.x_is_bf16, p.x_stride);
  if (p.residual != nullptr) p.residual = moved(p.residual, p.out_is_bf16, p.members[0].rows);
  if (request.gated != nullptr)
    p.gated_out = const_cast<char*>(moved(p.gated_out, p.out_is_bf16, p.gated_stride));
  for (int i = 0; i < p.member_count; ++i)
    if (p.members[i].out != nullptr)
      p.members[i].out = const_cast<char*>(moved(p.members[i].out, p.out_is_bf16, p.members[i].rows));
  return p;
}

bool run(const Request& request) {
  const AdaptedLinearArgs& args = request.args;
  if (!takes(args)) return false;
  const FewTokenParams all = params_of(request);
  const int64_t pieces = (args.tokens + kFewTokenMost - 1) / kFewTokenMost;
  const int64_t step = (args.tokens + pieces - 1) / pieces;
  for (int64_t token = 0; token < args.tokens; token += step)
    if (!run_piece(request, from_token(request, all, token, std::min(step, args.tokens - token))))
      return false;
  return true;
}

}  // namespace

FewTokenTuning best_tuning(int64_t tokens) {
  if (tokens <= 4) return {.blocks_per_multiprocessor = 2};
  return {.ring_tiles = tokens <= 8 ? 2 : 0, .products = FewTokenProducts::kBF16};
}

bool few_token_linear(const OpContext& context, const AdaptedLinearArgs& args, const FewTokenTuning& tuning) {
  ONGGI_CHECK(args.residual.is_null() || args.count == 1);
  return run({context, args, nullptr, tuning});
}
bool few_token_linear(const OpContext& context, const AdaptedLinearArgs& args) {
  return few_token_linear(context, args, best_tuning(args.tokens));
}

bool few_token_gated_linear(const OpContext& context, const GatedLinearArgs& args,
                            const FewTokenTuning& tuning) {
  ONGGI_CHECK(args.linears.count == 2 && args.linears.residual.is_null());
  return run({context, args.linears, &args, tuning});
}
bool few_token_gated_linear(const OpContext& context, const GatedLinearArgs& args) {
  return few_token_gated_linear(context, args, best_tuning(args.linears.tokens));
}

}  // namespace onggi::cuda
