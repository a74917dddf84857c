// One run of `onggi bench`: what the subcommands share. Each is in a file of its own: bench_train.cc,
// bench_infer.cc (prefill and decode), bench_files.cc (quantize and merge).
#pragma once

#include <span>
#include <string>
#include <vector>

#include "base/threads.h"
#include "cli/bench_limits.h"
#include "model/compute_device.h"
#include "model/inference.h"
#include "train/memory_plan.h"

namespace onggi {

struct BenchOptions {
  std::string shape = "qwen3-0.6b";
  std::string weights;  // dtype of the body
  std::string folder = "outputs/bench";
  std::string type = "q4_k_m";
  int64_t tokens = 0;  // of a sample, a prompt, or a context
  int64_t users = 1;
  int64_t repeats = 3;
  int threads = 0;
  int64_t micro_batch = 1;   // samples packed into a pass of training
  int64_t accumulation = 4;  // passes of a step
  double dropout = 0.1;
  std::string device = "auto";
  bool adapter = false;       // likewise: decode and prefill with a LoRA adapter
  bool recompute = false;     // likewise: training recomputes blocks
  std::string memory_budget;  // of training: chooses passes and recompute as `onggi train` does
  bool json = false;
};

struct BenchFigure {
  std::string name;
  double value = 0;
  std::string unit;
};

double median(std::vector<double> values);

// Weights that each token is multiplied with, without the embedding's look-up; those of the output matrix.
double body_weights(const ModelConfig& config);
double head_weights(const ModelConfig& config);

class Bench {
 public:
  // options must outlive this.
  explicit Bench(const BenchOptions& options);

  void train();
  void prefill();
  void decode();
  void quantize();
  void merge();
  void print(const std::string& title) const;

 private:
  TrainingPlan training_plan(int64_t length);
  void run_pass(const Model& model, KvCache& cache, std::span<const SequenceInput> inputs,
                InferenceBuffers& buffers);
  void add(const std::string& name, double value, const std::string& unit) {
    figures_.push_back({name, value, unit});
  }
  RandomBody body(const char* fallback) const;
  std::vector<int32_t> random_tokens(int64_t count, uint64_t stream) const;

  const BenchOptions& options_;
  ComputeDevice device_;
  ThreadPool threads_;
  ComputeSession session_;
  const Compute& compute_;
  ModelConfig config_;
  std::vector<BenchFigure> figures_;
};

}  // namespace onggi
