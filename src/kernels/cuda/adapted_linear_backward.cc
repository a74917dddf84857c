// The backward of adapted_linear. With bf16 activations and where nothing is dropped, the adapters' part of
// dx rides on a weight's product as in the forward: the rows of dout have du_i in the columns behind N, the
// dequantised weight has A_i in the rows there, and one product gives both. With f32 activations, the
// reference, the parts run one after another.
//
// In gated_linear_backward, that of down(silu(gate) up), the kernel that turns the gradient of silu(gate) up
// into those of gate and up makes silu(gate) up again on its way, and the sums for A with it: the product of
// the two is never stored.
#include <algorithm>

#include "base/error.h"
#include "kernels/cuda/adapted_linear.h"
#include "kernels/cuda/context.h"
#include "kernels/cuda/cuda.h"
#include "kernels/cuda/matmul.h"
#include "kernels/cuda/weight_matrix.h"
#include "kernels/table.h"

namespace onggi::cuda {
namespace {

// The backward over bf16 activations. Where no product takes the adapters along, their part of dx comes
// first, so that the products, which have time for it, read and write dx, and not the kernels that wait for
// memory.
class Backward {
 public:
  Backward(CudaStream& stream, const AdaptedLinearBackwardArgs& args)
      : stream_(stream),
        args_(args),
        columns_(args.members[0].weight.columns),
        members_(lora_members(args)),
        slot_(largest_rank(members_, args.count)),
        taker_(find_taker()),
        output_(args.output) {}

  // Of the linear of gated_linear_backward. Whether there is a kernel for it shows in takes_gates().
  Backward(CudaStream& stream, const GatedLinearBackwardArgs& args) : Backward(stream, args.linear) {
    const Bf16* activated_gradient = args_.dx.as<Bf16>();
    gates_ = {.tokens = args_.tokens,
              .columns = columns_,
              .gate = args.gate.as<Bf16>(),
              .up = args.up.as<Bf16>(),
              .dactivated = activated_gradient,
              .dgate = args.dgate.as<Bf16>(),
              .dup = args.dup.as<Bf16>(),
              .dup_stride = args.dup_stride > 0 ? args.dup_stride : columns_,
              .lora = member(0).lora,
              .mask = mask_of(args_.dropout),
              .dropout_stream = member(0).dropout_stream,
              .a_gradient = member(0).a_gradient};
    has_gates_ = true;
  }
  bool takes_gates() const { return slot_ > 0 && lora_gated_gradient_takes(gates_); }

  void run() {
    prepare();
    if (slot_ > 0) adapters();
    if (args_.dx.is_null()) return;
    // First, while A is still behind the weight.
    if (taker_ >= 0) multiply(taker_);
    for (int i = 0; i < args_.count; ++i)
      if (i != taker_) multiply(i);
    if (has_gates_) lora_gated_gradient(stream_, gates_);
  }

 private:
  const AdaptedLinearBackwardArgs::Member& member(int i) const {
    return args_.members[static_cast<size_t>(i)];
  }
  int64_t dout_stride(int i) const {
    return member(i).dout_stride > 0 ? member(i).dout_stride : member(i).weight.rows;
  }
  int64_t du_width() const { return args_.count * padded_rank(slot_); }
  bool can_take_adapters(int i) const;
  int find_taker() const;
  size_t piece_bytes(int i) const;
  void prepare();
  void place_du_and_a();
  void adapters();
  void multiply(int i);

  CudaStream& stream_;
  const AdaptedLinearBackwardArgs& args_;
  int64_t columns_;  // K
  LoraMembers members_;
  int64_t slot_;
  int taker_;      // the member whose product takes the adapters along; -1: none
  Output output_;  // what the next to write dx does
  ScratchRegions scratch_;
  LoraCopies copies_;
  LoraOutputGradientArgs outer_;
  LoraInputGradientArgs inner_;
  LoraGatedGradientArgs gates_;
  bool has_gates_ = false;
  void* piece_ = nullptr;
};

// A weight that needs no dequantisation is not copied for it, and one in several pieces has no last row.
bool Backward::can_take_adapters(int i) const {
  const WeightMatrix weight(member(i).weight, DType::kBF16);
  const int64_t rows = member(i).weight.rows;
  return !weight.is_in_place() && weight.piece_rows() == rows && rows % 8 == 0 &&
         dout_stride(i) >= rows + du_width() && dout_stride(i) % 8 == 0;
}

// Sums over all adapters at once have no place for their masks.
int Backward::find_taker() const {
  if (args_.dx.is_null() || columns_ % 8 != 0 || mask_of(args_.dropout).threshold > 0) return -1;
  int taker = -1;
  for (int i = 0; i < args_.count; ++i) {
    if (member(i).lora.a == nullptr) return -1;
    if (taker < 0 && can_take_adapters(i)) taker = i;
  }
  return taker;
}

size_t Backward::piece_bytes(int i) const {
  const size_t weight = WeightMatrix(member(i).weight, DType::kBF16).scratch_bytes();
  return i == taker_ ? weight + bf16_bytes(du_width() * columns_) : weight;
}

// Arguments and working memory. The partial sums of both kernels lie in the same place: those of the first
// are added up before the second starts.
void Backward::prepare() {
  outer_ = {.tokens = args_.tokens, .count = args_.count, .members = members_, .slot = slot_};
  inner_ = {.x = static_cast<const Bf16*>(args_.x.data),
            .x_stride = args_.x_stride > 0 ? args_.x_stride : columns_,
            .tokens = args_.tokens,
            .columns = columns_,
            .count = args_.count,
            .members = members_,
            .mask = mask_of(args_.dropout),
            .slot = slot_,
            .dx = taker_ >= 0 ? nullptr : args_.dx.as<Bf16>(),
            .output = output_};
  std::array<size_t, kMaxLinearGroup> b_turned{}, a_pieces{}, du{};
  size_t largest_piece = 0;
  const int64_t ranks = padded_rank(slot_);
  for (int i = 0; i < args_.count; ++i) {
    const auto at = static_cast<size_t>(i);
    if (!args_.dx.is_null()) largest_piece = std::max(largest_piece, piece_bytes(i));
    if (member(i).lora.a == nullptr) continue;
    b_turned[at] = scratch_.add(bf16_bytes(ranks * rounded_to(member(i).weight.rows, 8)));
    if (taker_ >= 0) continue;
    a_pieces[at] = scratch_.add(bf16_bytes(ranks * rounded_to(columns_, 32)));
    du[at] = scratch_.add(bf16_bytes(ranks * args_.tokens));
  }
  int64_t partial_sums = 0;
  if (slot_ > 0)
    partial_sums =
        std::max(lora_output_partials(stream_, outer_),
                 has_gates_ ? lora_gated_partials(stream_, gates_) : lora_input_partials(stream_, inner_));
  const size_t partials = scratch_.add(static_cast<size_t>(partial_sums) * sizeof(float));
  const size_t piece = scratch_.add(largest_piece);
  scratch_.reserve(stream_);
  piece_ = scratch_.at<std::byte>(piece);
  outer_.partials = inner_.partials = gates_.partials = scratch_.at<float>(partials);
  if (has_gates_) inner_.partials = nullptr;
  for (int i = 0; i < args_.count; ++i) {
    const auto at = static_cast<size_t>(i);
    if (member(i).lora.a == nullptr) continue;
    ONGGI_CHECK(member(i).dout.dtype == DType::kBF16 && member(i).lora_u.dtype == DType::kBF16);
    outer_.b_turned[at] = copies_.b_turned[at] = scratch_.at<Bf16>(b_turned[at]);
    if (taker_ < 0) {
      inner_.a_pieces[at] = copies_.a_pieces[at] = scratch_.at<Bf16>(a_pieces[at]);
      outer_.du[at] = scratch_.at<Bf16>(du[at]);
    }
    outer_.dout[at] = member(i).dout.as<Bf16>();
    outer_.dout_stride[at] = dout_stride(i);
    outer_.u[at] = member(i).lora_u.as<Bf16>();
    outer_.b_gradient[at] = member(i).b_gradient;
    inner_.a_gradient[at] = member(i).a_gradient;
  }
  outer_.du_stride = ranks;
  if (taker_ >= 0) place_du_and_a();
  for (size_t at = 0; at < inner_.du.size(); ++at) inner_.du[at] = outer_.du[at];
  inner_.du_stride = gates_.du_stride = outer_.du_stride;
  gates_.du = outer_.du[0];
}

// du_i into the columns behind the taker's dout, A_i into the rows behind its weight.
void Backward::place_du_and_a() {
  const int64_t rows = member(taker_).weight.rows, ranks = padded_rank(slot_);
  auto* columns = const_cast<Bf16*>(member(taker_).dout.as<Bf16>()) + rows;
  auto* below = static_cast<Bf16*>(piece_) + rows * columns_;
  for (int i = 0; i < args_.count; ++i) {
    outer_.du[static_cast<size_t>(i)] = columns + i * ranks;
    copies_.a[static_cast<size_t>(i)] = below + i * ranks * columns_;
  }
  outer_.du_stride = dout_stride(taker_);
}

void Backward::adapters() {
  prepare_lora(
      stream_,
      {.count = args_.count, .members = members_, .columns = columns_, .slot = slot_, .copies = copies_});
  lora_output_gradient(stream_, outer_);
  if (inner_.dx != nullptr || inner_.partials != nullptr) lora_input_gradient(stream_, inner_);
  if (inner_.dx != nullptr) output_ = Output::kAccumulate;
}

void Backward::multiply(int i) {
  const int64_t rows = member(i).weight.rows, more = i == taker_ ? du_width() : 0;
  const WeightMatrix weight(member(i).weight, DType::kBF16);
  for (int64_t row = 0; row < rows; row += weight.piece_rows()) {
    const ActivationView dout = member(i).dout.at(row);
    matmul(stream_, {.m = args_.tokens,
                     .n = columns_,
                     .k = std::min(weight.piece_rows(), rows - row) + more,
                     .a = {dout.data, dout.dtype, dout_stride(i)},
                     .b = weight.piece(stream_, row, piece_, Nf4Rounding::kToBf16),
                     .beta = output_ == Output::kAccumulate ? 1.0f : 0.0f,
                     .c = {args_.dx.data, args_.dx.dtype, columns_},
                     .d = args_.dx.data,
                     .d_dtype = args_.dx.dtype,
                     .d_stride = columns_});
    output_ = Output::kAccumulate;
  }
}

}  // namespace

void adapted_linear_backward(const OpContext& context, const AdaptedLinearBackwardArgs& args) {
  if (args.tokens == 0) return;
  if (args.x.dtype == DType::kF32) return run_adapted_linear_backward_parts(cuda_ops(), context, args);
  Backward(cuda_stream(context), args).run();
}

void gated_linear_backward(const OpContext& context, const GatedLinearBackwardArgs& args) {
  if (args.linear.tokens == 0) return;
  if (args.linear.x.dtype == DType::kBF16) {
    Backward backward(cuda_stream(context), args);
    if (backward.takes_gates()) return backward.run();
  }
  run_gated_linear_backward_parts(cuda_ops(), context, args);
}

}  // namespace onggi::cuda
