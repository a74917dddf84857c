// adapted_linear. With bf16 activations the adapter's part rides on the weight's product: the rows of x have
// u_i = dropout_i(x) A_i^T in the columns behind K, the dequantised weight has scale B_i there, and one
// product gives both. With f32 activations, the reference, the parts run one after another.
#include "kernels/cuda/adapted_linear.h"

#include <algorithm>

#include "base/error.h"
#include "kernels/cuda/context.h"
#include "kernels/cuda/cuda.h"
#include "kernels/cuda/few_token.h"
#include "kernels/cuda/matmul.h"
#include "kernels/cuda/weight_matrix.h"
#include "kernels/table.h"

namespace onggi::cuda {
namespace {

// The forward over bf16 activations.
class Forward {
 public:
  Forward(CudaStream& stream, const AdaptedLinearArgs& args, const Bf16* x, int64_t x_stride)
      : stream_(stream),
        args_(args),
        x_(x),
        x_stride_(x_stride),
        columns_(args.members[0].weight.columns),
        members_(lora_members(args)),
        slot_(largest_rank(members_, args.count)),
        u_width_(rounded_to(args.count * slot_, kLoraColumnMultiple)),
        has_spare_columns_(slot_ > 0 && columns_ % 8 == 0 && x_stride >= columns_ + u_width_) {}

  void run() {
    plan_scratch();
    if (slot_ > 0) make_u();
    for (int i = 0; i < args_.count; ++i) multiply(i);
  }

 private:
  const AdaptedLinearArgs::Member& member(int i) const { return args_.members[static_cast<size_t>(i)]; }

  // One product for weight and adapter. A weight that needs no dequantisation is copied for it only where
  // the copy (of N K) costs less than a second pass over the output (of T N).
  bool takes_adapter_along(int i) const {
    if (!has_spare_columns_ || member(i).lora.a == nullptr) return false;
    return member(i).weight.dtype != DType::kBF16 || args_.tokens > columns_;
  }
  WeightMatrix weight_of(int i) const {
    return {member(i).weight, DType::kBF16, takes_adapter_along(i) ? u_width_ : 0};
  }

  void plan_scratch();
  void make_u();
  void multiply(int i);
  void add_adapter(int i);

  CudaStream& stream_;
  const AdaptedLinearArgs& args_;
  const Bf16* x_;
  int64_t x_stride_;
  int64_t columns_;  // K
  LoraMembers members_;
  int64_t slot_;     // columns of u for each member
  int64_t u_width_;  // columns of u
  bool has_spare_columns_;
  ScratchRegions scratch_;
  LoraCopies copies_;
  Bf16* u_ = nullptr;
  int64_t u_stride_ = 0;
  void* piece_ = nullptr;
};

void Forward::plan_scratch() {
  std::array<size_t, kMaxLinearGroup> a{}, b_turned{};
  size_t piece_bytes = 0;
  for (int i = 0; i < args_.count; ++i) {
    const auto at = static_cast<size_t>(i);
    piece_bytes = std::max(piece_bytes, weight_of(i).scratch_bytes());
    if (member(i).lora.a == nullptr) continue;
    a[at] = scratch_.add(bf16_bytes(padded_rank(slot_) * rounded_to(columns_, 8)));
    b_turned[at] = scratch_.add(bf16_bytes(padded_rank(slot_) * rounded_to(member(i).weight.rows, 8)));
  }
  const size_t u = scratch_.add(has_spare_columns_ ? 0 : bf16_bytes(args_.tokens * u_width_));
  const size_t piece = scratch_.add(piece_bytes);
  scratch_.reserve(stream_);
  for (int i = 0; i < args_.count; ++i) {
    const auto at = static_cast<size_t>(i);
    if (member(i).lora.a == nullptr) continue;
    copies_.a[at] = scratch_.at<Bf16>(a[at]);
    if (!takes_adapter_along(i)) copies_.b_turned[at] = scratch_.at<Bf16>(b_turned[at]);
  }
  u_ = has_spare_columns_ ? const_cast<Bf16*>(x_) + columns_ : scratch_.at<Bf16>(u);
  u_stride_ = has_spare_columns_ ? x_stride_ : u_width_;
  piece_ = scratch_.at<std::byte>(piece);
}

void Forward::make_u() {
  prepare_lora(
      stream_,
      {.count = args_.count, .members = members_, .columns = columns_, .slot = slot_, .copies = copies_});
  LoraDownArgs down{.x = x_,
                    .x_stride = x_stride_,
                    .tokens = args_.tokens,
                    .columns = columns_,
                    .count = args_.count,
                    .members = members_,
                    .mask = mask_of(args_.dropout),
                    .slot = slot_,
                    .u = u_,
                    .u_stride = u_stride_,
                    .u_width = u_width_};
  for (int i = 0; i < args_.count; ++i) {
    const auto at = static_cast<size_t>(i);
    down.a[at] = copies_.a[at];
    if (!member(i).lora_u.is_null()) {
      ONGGI_CHECK(member(i).lora_u.dtype == DType::kBF16);
      down.kept[at] = member(i).lora_u.as<Bf16>();
    }
  }
  lora_down(stream_, down);
}

void Forward::multiply(int i) {
  const AdaptedLinearArgs::Member& to = member(i);
  const bool takes_adapter = takes_adapter_along(i);
  const int64_t rows = to.weight.rows;
  const WeightMatrix weight = weight_of(i);
  LoraColumns lora;
  if (takes_adapter)
    lora = {.b = to.lora.b,
            .rank = to.lora.rank,
            .scale = to.lora.scale,
            .first_column = i * slot_,
            .width = u_width_};
  for (int64_t row = 0; row < rows; row += weight.piece_rows()) {
    const Activation out = to.out.at(row);
    MatmulArgs product{.m = args_.tokens,
                       .n = std::min(weight.piece_rows(), rows - row),
                       .k = columns_ + (takes_adapter ? u_width_ : 0),
                       .transpose_b = Transpose::kYes,
                       .a = {x_, DType::kBF16, x_stride_},
                       .b = weight.piece(stream_, row, piece_, Nf4Rounding::kToBf16, lora),
                       .c = {},
                       .d = out.data,
                       .d_dtype = out.dtype,
                       .d_stride = rows};
    if (!args_.residual.is_null()) {
      const ActivationView residual = args_.residual.at(row);
      product.beta = 1.0f;
      product.c = {residual.data, residual.dtype, rows};
    }
    matmul(stream_, product);
  }
  if (to.lora.a != nullptr && !takes_adapter) add_adapter(i);
}

// out += scale u B^T, with another pass over the output.
void Forward::add_adapter(int i) {
  const AdaptedLinearArgs::Member& to = member(i);
  const int64_t rows = to.weight.rows;
  matmul(stream_, {.m = args_.tokens,
                   .n = rows,
                   .k = to.lora.rank,
                   .alpha = to.lora.scale,
                   .a = {u_ + i * slot_, DType::kBF16, u_stride_},
                   .b = {copies_.b_turned[static_cast<size_t>(i)], DType::kBF16, rounded_to(rows, 8)},
                   .beta = 1.0f,
                   .c = {to.out.data, to.out.dtype, rows},
                   .d = to.out.data,
                   .d_dtype = to.out.dtype,
                   .d_stride = rows});
}

}  // namespace

int64_t row_padding(Precision precision, int64_t rank) {
  return precision == Precision::kF32 ? 0 : rounded_to(kMaxLinearGroup * rank, kLoraColumnMultiple);
}

void adapted_linear(const OpContext& context, const AdaptedLinearArgs& args) {
  if (args.tokens == 0) return;
  // The residual stream of inference is f32 in fast runs too: the norm, fused or not, makes bf16 of it.
  const DType input = args.norm != nullptr ? args.normed.dtype : args.x.dtype;
  if (input == DType::kF32) return run_adapted_linear_parts(cuda_ops(), context, args);
  if (few_token_linear(context, args)) return;
  ONGGI_CHECK(args.residual.is_null() || args.count == 1);
  const int64_t columns = args.members[0].weight.columns;
  const Bf16* x = args.x.as<Bf16>();
  int64_t stride = args.x_stride > 0 ? args.x_stride : columns;
  if (args.norm != nullptr) {
    const int64_t rank = largest_rank(lora_members(args), args.count);
    const int64_t normed_stride = columns + rounded_to(args.count * rank, kLoraColumnMultiple);
    ONGGI_CHECK(stride == columns, "what is yet to be normalised is dense");
    rms_norm(context, {.x = args.x,
                       .weight = args.norm,
                       .tokens = args.tokens,
                       .width = columns,
                       .epsilon = args.epsilon,
                       .out = args.normed,
                       .out_stride = normed_stride,
                       .inverse_rms = nullptr});
    x = args.normed.as<Bf16>();
    stride = normed_stride;
  }
  Forward(cuda_stream(context), args, x, stride).run();
}

void gated_linear(const OpContext& context, const GatedLinearArgs& args) {
  if (args.linears.tokens == 0 || few_token_gated_linear(context, args)) return;
  run_gated_linear_parts(cuda_ops(), context, args);
}

}  // namespace onggi::cuda
