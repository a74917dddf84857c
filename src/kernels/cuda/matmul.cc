#include "kernels/cuda/matmul.h"

#include <algorithm>
#include <array>
#include <bit>
#include <map>
#include <memory>
#include <optional>
#include <utility>

#include "base/error.h"
#include "kernels/cuda/matmul_choice.h"
#include "kernels/cuda/matmul_plan.h"

namespace onggi {
namespace {

// Passes of ever new lengths make ever new plans; a full cache starts again.
constexpr size_t kMaxPlans = 4096;
// How many of cuBLASLt's choices are compared, for products of at least so many operations: 13 us of an H100.
constexpr int kMostCandidates = 8;
constexpr double kFewestOperations = 1e10;

using Key = std::array<int64_t, 14>;

// What the choice of an algorithm depends on, but for m.
Key key_without_m(const MatmulArgs& args) {
  const auto number = [](auto value) { return static_cast<int64_t>(value); };
  const bool reads_c = args.beta != 0;
  return {0, args.n, args.k, number(args.transpose_a) * 2 + number(args.transpose_b),
          number(args.a.dtype) * kDTypeCount + number(args.d_dtype), args.a.stride, args.b.stride,
          args.d_stride, reads_c ? args.c.stride : -1,
          // In place and out of place may differ.
          reads_c && args.c.data == args.d, matmul_alignment(args.a.data), matmul_alignment(args.b.data),
          reads_c ? matmul_alignment(args.c.data) : 0, matmul_alignment(args.d)};
}

// Products whose m differs by less than a sixteenth are of one kind: passes of different lengths share what
// was found out.
int64_t kind_of_m(int64_t m) {
  const auto width = static_cast<int>(std::bit_width(static_cast<uint64_t>(m)));
  const int64_t step = int64_t{1} << std::max(0, width - 5);
  return (m + step - 1) / step * step;
}

class Products {
 public:
  Products(CudaStream& stream, const MatmulArgs& args)
      : stream_(stream), workspace_(stream.allocate(kMatmulWorkspaceBytes)) {
    cublasLtHandle_t handle = nullptr;
    check_cublas(cublasLtCreate(&handle), "cublasLtCreate", args);
    handle_.reset(handle);
    bits_.emplace(stream, handle, workspace_.data());
  }

  void run(const MatmulArgs& args) {
    Key key = key_without_m(args);
    key[0] = args.m;
    auto found = products_.find(key);
    if (found == products_.end()) {
      if (products_.size() >= kMaxPlans) products_.clear();
      found = products_.emplace(key, std::make_unique<Product>(args)).first;
      found->second->first = found->second->plan.algorithms(handle_.get(), 1, args).front();
    }
    run(*found->second, args);
  }

 private:
  struct Product {
    explicit Product(const MatmulArgs& args) : plan(args) {}
    MatmulPlan plan;
    MatmulAlgorithm first;           // cuBLASLt's choice for it
    MatmulChoice* choice = nullptr;  // of its kind
    bool has_looked_for_choice = false;
    // Of the choice: whether the plan takes an algorithm, where that is known. Asking cuBLASLt costs.
    std::map<const MatmulAlgorithm*, bool> takes;
  };

  bool takes(Product& product, const MatmulAlgorithm& algorithm) {
    const auto [found, is_new] = product.takes.try_emplace(&algorithm, false);
    if (is_new) found->second = product.plan.takes(handle_.get(), algorithm);
    return found->second;
  }

  void run(Product& product, const MatmulArgs& args) {
    // Nothing is timed within a recording, which keeps what was found before it.
    if (!product.has_looked_for_choice && !stream_.recording()) find_choice(product, args);
    const MatmulAlgorithm* algorithm = nullptr;
    if (product.choice != nullptr && stream_.recording()) {
      algorithm = product.choice->best();
      if (algorithm != nullptr && !takes(product, *algorithm)) algorithm = nullptr;
    } else if (product.choice != nullptr) {
      algorithm = product.choice->next([&](const MatmulAlgorithm& other) { return takes(product, other); });
    }
    if (algorithm == nullptr)
      return product.plan.run(handle_.get(), product.first, workspace_.data(), stream_.handle(), args);
    product.choice->begin(stream_.handle());
    product.plan.run(handle_.get(), *algorithm, workspace_.data(), stream_.handle(), args);
    product.choice->end(stream_.handle());
  }

  void find_choice(Product& product, const MatmulArgs& args) {
    product.has_looked_for_choice = true;
    const double operations = 2.0 * static_cast<double>(args.m) * static_cast<double>(args.n * args.k);
    if (args.a.dtype != DType::kBF16 || operations < kFewestOperations || product.first.workspace_bytes > 0)
      return;
    Key kind = key_without_m(args);
    kind[0] = kind_of_m(args.m);
    std::unique_ptr<MatmulChoice>& choice = choices_[kind];
    if (choice == nullptr) {
      choice = std::make_unique<MatmulChoice>(product.first);
      for (const MatmulAlgorithm& other : product.plan.algorithms(handle_.get(), kMostCandidates, args))
        if (other.workspace_bytes == 0 && !choice->knows(other) &&
            bits_->are_same(args, product.first, other))
          choice->add(other);
      // They are cuBLASLt's choices for this very product.
      choice->for_each([&](const MatmulAlgorithm& algorithm) { product.takes.emplace(&algorithm, true); });
    } else if (!choice->knows(product.first) && !bits_->are_same(args, choice->first(), product.first)) {
      return;  // its bits are those of its own first choice
    }
    product.choice = choice.get();
  }

  CudaStream& stream_;
  Buffer workspace_;
  CublasOwner<cublasLtHandle_t, cublasLtDestroy> handle_;
  std::optional<MatmulBits> bits_;
  std::map<Key, std::unique_ptr<Product>> products_;
  std::map<Key, std::unique_ptr<MatmulChoice>> choices_;
};

}  // namespace

size_t matmul_workspace_bytes() { return kMatmulWorkspaceBytes; }

void matmul(CudaStream& stream, const MatmulArgs& args) {
  if (args.m == 0 || args.n == 0) return;
  ONGGI_CHECK(args.k > 0 && args.a.dtype == args.b.dtype, describe(args));
  ONGGI_CHECK(args.beta == 0 || args.c.dtype == args.d_dtype, describe(args));
  stream.activate();
  stream.note_op("matmul");
  auto& products = stream.attachment<Products>([&] { return std::make_shared<Products>(stream, args); });
  products.run(args);
}

}  // namespace onggi
