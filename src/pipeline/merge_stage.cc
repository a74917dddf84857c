// Stage 4: both merge bases are made and measured, the better one stays.
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/human.h"
#include "base/process.h"
#include "base/text.h"
#include "eval/parity.h"
#include "eval/validation.h"
#include "merge/merge.h"
#include "pipeline/session.h"

namespace onggi {
namespace {

// One way to merge, made and measured.
struct Candidate {
  MergeBase base;
  fs::path folder;
  MergeResult merged;
  ParityResult parity;
  double loss = 0;  // over the measuring samples
};

class Merger {
 public:
  explicit Merger(StageContext& context)
      : context_(context),
        config_(context.config),
        base_(base_folder(context)),
        session_(context.device, context.threads, training_precision(context.config)) {}

  StageOutcome run();

 private:
  void measure_reference();
  Candidate make(MergeBase base);
  const Candidate& choose(const std::vector<Candidate>& candidates);
  void keep(const Candidate& chosen, const std::vector<Candidate>& all);

  StageContext& context_;
  const Config& config_;
  fs::path base_;
  ComputeSession session_;
  std::vector<Sample> samples_;  // held-out ones where there are any, else the training samples
  std::optional<ParityReference> reference_;
  double unmerged_loss_ = 0;
  std::string reason_;
};

void Merger::measure_reference() {
  const LoadedModel unmerged =
      load_chat_model(base_, {.quantization = base_quantization(config_), .adapter = config_.adapter_dir()},
                      context_.threads, context_.device.placement());
  StageData data = load_stage_data(config_, unmerged.tokenizer, ChatTemplate::of(unmerged.tokenizer));
  // What was taught must survive, and so must what was not: the loss is measured over both.
  samples_ = std::move(data.training_samples.samples);
  if (data.held_out_samples)
    samples_.insert(samples_.end(), data.held_out_samples->samples.begin(),
                    data.held_out_samples->samples.end());
  unmerged_loss_ = mean_loss(*unmerged.model, session_.compute(), samples_);
  reference_.emplace(unmerged, session_.compute(), parity_prompts(config_, data.training),
                     config_.parity.max_new_tokens, text("the adapter on its training base"));
}

Candidate Merger::make(MergeBase base) {
  Candidate candidate{base, config_.merged_dir(), {}, {}, 0};
  candidate.folder += "." + std::string(merge_base_name(base)) + ".candidate";
  fs::remove_all(candidate.folder);
  MergeOptions options;
  options.base_folder = base_;
  options.adapter_folder = config_.adapter_dir();
  options.output_folder = candidate.folder;
  options.model_name = config_.merged_dir().filename().string();
  options.base = base;
  options.max_shard_bytes = config_.merge.max_shard_size.bytes;
  options.provenance_json = provenance(context_).dump();
  options.progress = [&](const MergeProgress& progress) {
    if (stop_requested()) throw Interrupted(text("stopped during the merge; run the same command again"));
    context_.reporter.progress(text("merging onto {}", merge_base_name(base)), progress.bytes_done,
                               progress.bytes_total, "B");
  };
  candidate.merged = merge_adapter(options, context_.threads);
  context_.reporter.progress_ends();
  for (const std::string& warning : candidate.merged.warnings) context_.reporter.warn(warning);
  const LoadedModel model =
      load_chat_model(candidate.folder, {}, context_.threads, context_.device.placement());
  candidate.loss = mean_loss(*model.model, session_.compute(), samples_);
  candidate.parity = reference_->compare(model, session_.compute(),
                                         text("merged ({})", merge_base_name(base)), config_.parity.merged);
  context_.reporter.say(text("{}: loss {:.4f} (unmerged {:.4f}), KL {:.2e}", merge_base_name(base),
                             candidate.loss, unmerged_loss_, candidate.parity.mean_kl));
  return candidate;
}

const Candidate& Merger::choose(const std::vector<Candidate>& candidates) {
  if (candidates.size() == 1) {
    reason_ = text("merge.base asks for it");
    return candidates[0];
  }
  const Candidate &first = candidates[0], &second = candidates[1];
  if (first.parity.passed != second.parity.passed) {
    const Candidate& passed = first.parity.passed ? first : second;
    reason_ = text("the other one fails the parity gate ({})",
                   (first.parity.passed ? second : first).parity.reason);
    return passed;
  }
  const Candidate& better = first.loss <= second.loss ? first : second;
  reason_ = text("its loss is the lower one: {:.4f} against {:.4f}; the unmerged adapter has {:.4f}",
                 std::min(first.loss, second.loss), std::max(first.loss, second.loss), unmerged_loss_);
  return better;
}

// The chosen folder gets its final name only after its record says why it was chosen.
void Merger::keep(const Candidate& chosen, const std::vector<Candidate>& all) {
  const fs::path info = chosen.folder / "merge_info.json";
  auto json = nlohmann::ordered_json::parse(read_file(info));
  json["merge_base_reason"] = reason_;
  json["unmerged_loss"] = unmerged_loss_;
  for (const Candidate& candidate : all)
    json["measured"][std::string(merge_base_name(candidate.base))] = {{"loss", candidate.loss},
                                                                      {"parity", candidate.parity.to_json()}};
  write_file(info, json.dump(2) + "\n");
  fs::remove_all(config_.merged_dir());
  fs::rename(chosen.folder, config_.merged_dir());
  for (const Candidate& candidate : all)
    if (&candidate != &chosen) fs::remove_all(candidate.folder);
}

StageOutcome Merger::run() {
  require_results(context_, "train");
  measure_reference();
  std::vector<Candidate> candidates;
  using Base = MergeConfig::Base;
  // Without NF4 in training there is no other base than the original.
  const bool nf4 = config_.quantization.load_in_4bit && config_.merge.base != Base::kOriginal;
  if (config_.merge.base != Base::kNf4 || !nf4) candidates.push_back(make(MergeBase::kOriginal16bit));
  if (nf4) candidates.push_back(make(MergeBase::kNf4Dequantized));
  const Candidate& chosen = choose(candidates);
  context_.reporter.say(text("merged onto {}: {}", merge_base_name(chosen.base), reason_));
  ParityGate(context_.reporter).check(chosen.parity);
  const MergeBase base = chosen.base;
  const MergeResult merged = chosen.merged;
  const auto parity = chosen.parity.to_json();
  const double loss = chosen.loss;
  keep(chosen, candidates);

  StageOutcome outcome;
  outcome.results = {{"folder", config_.merged_dir().string()},
                     {"base", merge_base_name(base)},
                     {"reason", reason_},
                     {"loss", loss},
                     {"unmerged_loss", unmerged_loss_},
                     {"bytes", merged.bytes},
                     {"parity", parity}};
  for (const std::string& file : merged.files) outcome.outputs.push_back(config_.merged_dir() / file);
  outcome.summary = text("{}, {}", bytes_text(static_cast<double>(merged.bytes)), merge_base_name(base));
  return outcome;
}

}  // namespace

StageOutcome run_merge(StageContext& context) { return Merger(context).run(); }

}  // namespace onggi
