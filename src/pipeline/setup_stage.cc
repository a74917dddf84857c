// Stage 1: the base model's files, and a first answer.
#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/clock.h"
#include "base/error.h"
#include "base/process.h"
#include "base/text.h"
#include "eval/validation.h"
#include "hub/hub.h"
#include "pipeline/session.h"

namespace onggi {
namespace {

// One hash for all weight files, so that an exchanged base is noticed.
std::string weights_hash(const fs::path& folder, Reporter& reporter) {
  std::vector<fs::path> files;
  for (const auto& entry : fs::directory_iterator(folder))
    if (entry.path().extension() == ".safetensors") files.push_back(entry.path());
  std::sort(files.begin(), files.end());
  std::string all;
  for (size_t i = 0; i < files.size(); ++i) {
    if (stop_requested()) throw Interrupted(text("stopped; run the same command again"));
    reporter.progress(text("hashing the weights"), i, files.size(), "");
    all += sha256_hex_of_file(files[i]);
  }
  reporter.progress_ends();
  return sha256_hex(all);
}

}  // namespace

StageOutcome run_setup(StageContext& context) {
  const Config& config = context.config;
  HubOptions hub = hub_options_from_environment(config.hub.endpoint, config.hub.cache_dir);
  hub.parallel_downloads = static_cast<int>(config.hub.parallel_downloads);
  hub.max_retries = static_cast<int>(config.hub.max_retries);
  hub.progress = [&](const HubProgress& progress) {
    context.reporter.progress(text("downloading {}", config.model_name), progress.done_bytes,
                              progress.total_bytes, "B");
  };
  const ModelLocation location = resolve_model(config.model_name, config.hub.revision, hub);
  context.reporter.progress_ends();
  const char* source = location.source == ModelLocation::Source::kFolder  ? "folder"
                       : location.source == ModelLocation::Source::kCache ? "cache"
                                                                          : "hub";
  context.reporter.say(text("base model: {} ({})", location.folder.string(), source));

  // The seed's smoke test: does the model answer at all?
  const LoadedModel model = load_chat_model(location.folder, {}, context.threads, context.device.placement());
  ComputeSession session(context.device, context.threads, Precision::kFast);
  const nlohmann::ordered_json greeting = {{{"role", "user"}, {"content", "안녕하세요"}}};
  const auto prompt = render_prompt(model, greeting);
  const GreedyAnswer answer = greedy_answer(*model.model, session.compute(), prompt, 32);
  const std::string said = model.tokenizer.decode(answer.ids, SkipSpecial::kYes);
  if (said.empty())
    throw WorkError(text("the base model answered nothing to a greeting: its files may be broken"));
  const double rate =
      static_cast<double>(answer.ids.size()) / (answer.prompt_seconds + answer.answer_seconds);
  context.reporter.say(text("안녕하세요 -> {}", without_thinking(said)));

  StageOutcome outcome;
  outcome.results = {{"folder", fs::absolute(location.folder).lexically_normal().string()},
                     {"source", source},
                     {"commit", location.commit},
                     {"downloaded_bytes", location.downloaded_bytes},
                     {"parameters", model.model->parameters},
                     {"weights_sha256", weights_hash(location.folder, context.reporter)},
                     {"smoke_test", {{"answer", said}, {"tokens_per_s", rate}}}};
  outcome.outputs = {location.folder / "config.json"};
  outcome.summary = text("{} parameters, {:.1f} tok/s", model.model->parameters, rate);
  return outcome;
}

}  // namespace onggi
