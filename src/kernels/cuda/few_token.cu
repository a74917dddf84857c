#include <algorithm>
#include <limits>

#include "kernels/cuda/cuda.h"
#include "kernels/cuda/few_token.h"
#include "kernels/cuda/few_token_inputs.h"
#include "kernels/cuda/few_token_large.h"
#include "kernels/cuda/few_token_small.h"
#include "kernels/cuda/few_token_weights.cuh"
#include "kernels/cuda/few_token_wgmma.h"
#include "kernels/cuda/nf4_tables.h"
#include "kernels/ops/weight.h"

namespace onggi::cuda {
namespace {

// More tokens are faster with dequantised weights: a launch for every 128 tokens (on Hopper, else 64) reads
// the quantised weights once more, a library's product reads and writes 4 bytes a weight for it.
int64_t most_tokens(const CudaStream& stream) { return stream.compute_capability() == 90 ? 256 : 192; }
constexpr int64_t kMostTokensPlain = 64;

// What is the same for linear and gated layers.
struct Request {
  const OpContext& context;
  const AdaptedLinearArgs& args;
  const GatedLinearArgs* gated;  // null: linear
  const FewTokenTuning& tuning;
  // The launch before was a product of the same input, which it waited for before it let others start.
  bool input_is_there = false;
};

bool has_lora(const AdaptedLinearArgs& args) {
  for (int i = 0; i < args.count; ++i)
    if (args.members[static_cast<size_t>(i)].lora.a != nullptr) return true;
  return false;
}

// Whether the kernels can and should compute it.
bool takes(const CudaStream& stream, const AdaptedLinearArgs& args) {
  if (args.tokens == 0 || args.tokens > most_tokens(stream) || args.precision == Precision::kF32)
    return false;
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
          .lora_a = member.lora.a,
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
  p.column_tiles = static_cast<int>(column_tiles(p.columns));
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
  if (has_nf4) p.nf4_bytes = nf4_bytes(cuda_stream(request.context));
  return p;
}

void make_runs(FewTokenParams& p) {
  p.run_count = 0;
  for (int i = 0; i < p.member_count; ++i) {
    const FewTokenMember& member = p.members[i];
    if (p.run_count == 0 || p.runs[p.run_count - 1].dtype != member.dtype)
      p.runs[p.run_count++] = {member.dtype, i, 0};
    p.runs[p.run_count - 1].tiles += member.tiles;
  }
}

// A launch of one of the kernels, and its working memory: u of each member, activations as operands and
// their factors, and the sums of slices.
class Launch {
 public:
  Launch(const Request& request, const FewTokenParams& params)
      : request_(request), stream_(cuda_stream(request.context)), p_(params) {
    const FewTokenMachine machine{stream_.multiprocessors(), stream_.max_shared_bytes(),
                                  request.tuning.blocks_per_multiprocessor, request.tuning.ring_tiles};
    shape_.overlap = overlap();
    // Younger and older cards do not have wgmma.
    const bool has_wgmma =
        stream_.compute_capability() == 90 && p_.tokens >= request.tuning.fewest_wgmma_tokens;
    if (has_wgmma &&
        plan_few_token_wgmma({machine, request.tuning.groups, request.tuning.slices}, p_, wgmma_, shape_)) {
      kernel_ = Kernel::kWgmma;
    } else if (plan_few_token_small(machine, p_, small_, shape_)) {
      kernel_ = Kernel::kSmall;
    } else if (plan_few_token_large(machine, p_, large_, shape_)) {
      kernel_ = Kernel::kLarge;
    }
  }
  bool is_possible() const { return kernel_ != Kernel::kNone; }
  bool waits_for_input() const { return kernel_ == Kernel::kSmall && !needs_operands() && !has_adapter(); }

  void queue() {
    take_scratch();
    if (needs_operands())
      launch_few_token_inputs(stream_, p_, kernel_ == Kernel::kWgmma ? wgmma_.input_rows : 0, inputs_scratch_,
                              overlap());
    switch (kernel_) {
      case Kernel::kNone:
        break;
      case Kernel::kSmall:
        small_.waits_late = request_.input_is_there && !needs_operands() && request_.tuning.overlap_launches;
        launch_few_token_small(stream_, p_, small_, shape_);
        break;
      case Kernel::kLarge:
        launch_few_token_large(stream_, p_, large_, shape_);
        break;
      case Kernel::kWgmma:
        launch_few_token_wgmma(stream_, p_, wgmma_, shape_);
    }
    if (p_.partials != nullptr) launch_few_token_finish(stream_, p_, overlap());
  }

 private:
  enum class Kernel : uint8_t { kNone, kSmall, kLarge, kWgmma };

  Overlap overlap() const {
    return request_.tuning.overlap_launches ? Overlap::kWithPrevious : Overlap::kNone;
  }
  bool needs_operands() const { return kernel_ != Kernel::kSmall || small_.has_operands; }
  bool needs(Operands operands) const {
    for (int i = 0; i < p_.run_count; ++i)
      if (operands_of(p_.runs[i].dtype) == operands) return true;
    return false;
  }
  bool has_adapter() const {
    for (int i = 0; i < p_.member_count; ++i)
      if (p_.members[i].rank > 0) return true;
    return false;
  }
  void take_scratch();

  const Request& request_;
  CudaStream& stream_;
  FewTokenParams p_;
  Kernel kernel_ = Kernel::kNone;
  FewTokenSmallPlan small_{};
  FewTokenLargePlan large_{};
  FewTokenWgmmaPlan wgmma_{};
  LaunchShape shape_{};
  void* inputs_scratch_ = nullptr;
};

void Launch::take_scratch() {
  if (!needs_operands()) return;
  const auto tokens = static_cast<size_t>(p_.tokens);
  size_t bytes = 0;
  const auto add = [&bytes](size_t more) {
    const size_t begin = bytes;
    bytes += (more + 255) / 256 * 256;
    return begin;
  };
  size_t u[kMaxLinearGroup];
  for (int i = 0; i < p_.member_count; ++i)
    u[i] = add(static_cast<size_t>(p_.members[i].rank) * tokens * sizeof(float));
  const size_t inputs = add(few_token_inputs_scratch(p_));
  const size_t operand_bytes = std::max(tokens, static_cast<size_t>(wgmma_.input_rows)) *
                               static_cast<size_t>(p_.column_tiles) * kTileColumns * 2;
  const size_t f16 = add(needs(Operands::kF16) ? operand_bytes : 0);
  const size_t bf16 = add(needs(Operands::kBF16) ? operand_bytes : 0);
  const size_t factors = add(tokens * sizeof(float));
  // Slices meet in memory but for those of a cluster.
  const bool has_partials = p_.slices > 1 && kernel_ != Kernel::kWgmma;
  const size_t partials = add(!has_partials ? 0
                                            : static_cast<size_t>(p_.slices) * tokens *
                                                  static_cast<size_t>(p_.partial_rows) * sizeof(float));
  auto* memory = static_cast<std::byte*>(stream_.scratch(bytes));
  for (int i = 0; i < p_.member_count; ++i) p_.members[i].lora_u = reinterpret_cast<float*>(memory + u[i]);
  inputs_scratch_ = memory + inputs;
  if (has_partials) p_.partials = reinterpret_cast<float*>(memory + partials);
  if (needs(Operands::kF16)) p_.f16 = memory + f16;
  if (needs(Operands::kBF16)) p_.bf16 = memory + bf16;
  p_.factors = reinterpret_cast<float*>(memory + factors);
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

enum class Check : uint8_t { kOnly, kThenQueue };

// All tokens of members that one kernel takes.
bool run_group(Request& request, const FewTokenParams& all, Check check) {
  const int64_t tokens = request.args.tokens;
  // Cards with less shared memory take fewer tokens at a time.
  int64_t step = 0;
  for (int64_t most = kFewTokenWgmmaMost; step == 0; most /= 2) {
    if (most < kFewTokenSmallMost) return false;
    const int64_t pieces = (tokens + most - 1) / most;
    const int64_t fitting = (tokens + pieces - 1) / pieces;
    if (Launch(request, from_token(request, all, 0, fitting)).is_possible()) step = fitting;
  }
  if (check == Check::kOnly) return true;
  for (int64_t token = 0; token < tokens; token += step) {
    Launch launch(request, from_token(request, all, token, std::min(step, tokens - token)));
    ONGGI_CHECK(launch.is_possible(), "fewer tokens fit where more did");
    launch.queue();
    request.input_is_there = launch.waits_for_input();
  }
  return true;
}

// Calls group(params) for all members together or, where no kernel takes all their dtypes, for those of one
// dtype after the others.
template <typename Group>
bool for_groups(const FewTokenParams& all, const Group& group) {
  if (all.run_count == 1 || have_one_kernel(all)) return group(all);
  for (int i = 0; i < all.run_count; ++i) {
    FewTokenParams one = all;
    const int first = all.runs[i].first_member;
    one.member_count = (i + 1 < all.run_count ? all.runs[i + 1].first_member : all.member_count) - first;
    one.partial_rows = 0;
    for (int member = 0; member < one.member_count; ++member) {
      one.members[member] = all.members[first + member];
      one.members[member].first_row = static_cast<int>(one.partial_rows);
      one.partial_rows += kTileRows * one.members[member].tiles;
    }
    make_runs(one);
    if (!group(one)) return false;
  }
  return true;
}

bool run(Request request) {
  const AdaptedLinearArgs& args = request.args;
  if (!takes(cuda_stream(request.context), args)) return false;
  FewTokenParams all = params_of(request);
  for (int i = 0; i < all.member_count; ++i)
    if (!can_read(all.members[i], all.columns)) return false;
  if (request.gated != nullptr && all.members[0].dtype != all.members[1].dtype) return false;
  make_runs(all);
  // Nothing is queued before it is sure that all can be.
  const auto with = [&](Check check) {
    return for_groups(all, [&](const FewTokenParams& group) { return run_group(request, group, check); });
  };
  return with(Check::kOnly) && with(Check::kThenQueue);
}

}  // namespace

FewTokenTuning best_tuning(const AdaptedLinearArgs& args) {
  const int64_t tokens = args.tokens;
  const DType dtype = args.members[0].weight.dtype;
  if (tokens > kFewTokenSmallMost) return {};
  const bool is_plain = !is_quantized(dtype);
  if (tokens > kMostOwnOperands)
    return {.ring_tiles = 3,
            .fewest_wgmma_tokens = is_plain ? kMostOwnOperands + 1 : FewTokenTuning().fewest_wgmma_tokens};
  if (is_plain) return {.ring_tiles = kSmallRingMost};
  // Long rings leave the next kernel's blocks no room, two blocks on a multiprocessor neither; the more there
  // is to read, the more they are worth.
  int64_t weights = 0;
  for (int i = 0; i < args.count; ++i)
    weights += args.members[static_cast<size_t>(i)].weight.rows * args.members[0].weight.columns;
  constexpr int64_t kMillion = int64_t{1} << 20;
  const bool is_nf4 = dtype == DType::kNF4;
  if (weights < 32 * kMillion) return {.ring_tiles = is_nf4 ? 4 : 1};
  if (weights < 64 * kMillion && !is_nf4) return {.ring_tiles = 3};
  if (weights < 256 * kMillion || is_nf4) return {.blocks_per_multiprocessor = 2, .ring_tiles = 2};
  return {.ring_tiles = 4};
}

bool few_token_linear(const OpContext& context, const AdaptedLinearArgs& args) {
  return few_token_linear(context, args, best_tuning(args));
}
bool few_token_linear(const OpContext& context, const AdaptedLinearArgs& args, const FewTokenTuning& tuning) {
  ONGGI_CHECK(args.residual.is_null() || args.count == 1);
  return run({context, args, nullptr, tuning});
}

bool few_token_gated_linear(const OpContext& context, const GatedLinearArgs& args) {
  return few_token_gated_linear(context, args, best_tuning(args.linears));
}
bool few_token_gated_linear(const OpContext& context, const GatedLinearArgs& args,
                            const FewTokenTuning& tuning) {
  ONGGI_CHECK(args.linears.count == 2 && args.linears.residual.is_null());
  return run({context, args.linears, &args, tuning});
}

}  // namespace onggi::cuda
