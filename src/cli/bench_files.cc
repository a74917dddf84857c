// `onggi bench quantize` and `onggi bench merge`: the stages that stream files.
#include "base/process.h"
#include "base/text.h"
#include "cli/bench.h"
#include "cli/bench_checkpoint.h"
#include "merge/merge.h"
#include "quantize/convert.h"

namespace onggi {

void Bench::quantize() {
  const fs::path folder = bench_checkpoint(config_, options_.folder);
  ConvertOptions convert;
  convert.source = folder;
  convert.output = fs::path(options_.folder) / (options_.type + ".gguf");
  convert.recipe = parse_recipe(options_.type);
  const uint64_t before = resident_memory_bytes();
  reset_peak_memory();
  const ConvertResult result = convert_to_gguf(convert, threads_);
  add(text("quantise to {}", options_.type), result.seconds, "s");
  add(text("weights"), static_cast<double>(result.weights) / 1e6, "M");
  add(text("rate"), static_cast<double>(result.weights) / result.seconds / 1e6, "M/s");
  add(text("relative error"), result.relative_error, "");
  add(text("memory before"), static_cast<double>(before) / 1e6, "MB");
  add(text("peak memory"), static_cast<double>(peak_memory_bytes()) / 1e6, "MB");
}

void Bench::merge() {
  const fs::path folder = bench_checkpoint(config_, options_.folder);
  MergeOptions merge;
  merge.base_folder = folder;
  merge.adapter_folder = bench_adapter(config_, options_.folder);
  merge.output_folder = fs::path(options_.folder) / "merged";
  fs::remove_all(merge.output_folder);
  if (options_.weights == "nf4") merge.base = MergeBase::kNf4Dequantized;
  reset_peak_memory();
  const MergeResult result = merge_adapter(merge, threads_);
  add(text("merge onto {}", merge_base_name(merge.base)), result.seconds, "s");
  add(text("written"), static_cast<double>(result.bytes) / 1e9, "GB");
  add(text("rate"), static_cast<double>(result.bytes) / result.seconds / 1e9, "GB/s");
  add(text("peak memory"), static_cast<double>(peak_memory_bytes()) / 1e6, "MB");
}

}  // namespace onggi
