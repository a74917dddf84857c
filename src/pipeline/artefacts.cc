#include "pipeline/artefacts.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/text.h"
#include "eval/parity.h"
#include "pipeline/session.h"

namespace onggi {
namespace {

// One side of the comparison: a model's files and how they are read.
struct Artefact {
  fs::path path;
  LoadOptions options;
  std::string name;
};

void ask_again(StageContext& context, const Artefact& reference, const Artefact& changed,
               const ParityBound& bound) {
  const Config& config = context.config;
  ComputeSession session(context.device, context.threads, training_precision(config));
  const LoadedModel expected =
      load_chat_model(reference.path, reference.options, context.threads, context.device.placement());
  const ParityReference said(expected, session.compute(), parity_prompts(config, load_training_data(config)),
                             config.parity.max_new_tokens, reference.name);
  const LoadedModel model =
      load_chat_model(changed.path, changed.options, context.threads, context.device.placement());
  ParityGate(context.reporter).check(said.compare(model, session.compute(), changed.name, bound));
}

std::string names_of(const std::vector<fs::path>& files) {
  std::string names;
  for (const fs::path& file : files) names += (names.empty() ? "" : ", ") + file.string();
  return names;
}

}  // namespace

void confirm_merged(StageContext& context) {
  const Config& config = context.config;
  const std::vector<fs::path> changed = context.manifest.changed_outputs("merge");
  if (changed.empty()) return;
  context.reporter.warn(
      text("{}: changed since the merge; the parity gate is asked again", names_of(changed)));
  ask_again(context,
            {base_folder(context),
             {.quantization = base_quantization(config), .adapter = config.adapter_dir()},
             text("the adapter on its training base")},
            {config.merged_dir(), {}, names_of(changed)}, config.parity.merged);
}

void confirm_converted(StageContext& context) {
  const Config& config = context.config;
  const fs::path served = require_results(context, "convert").at("served").get<std::string>();
  const std::vector<fs::path> changed = context.manifest.changed_outputs("convert");
  if (std::find(changed.begin(), changed.end(), served) == changed.end()) return;
  context.reporter.warn(
      text("{}: changed since the conversion; the parity gate is asked again", served.string()));
  ask_again(context, {config.merged_dir(), {}, config.merged_dir().string()},
            {served, {}, served.filename().string()}, config.parity_bound(config.gguf.types.front()));
}

}  // namespace onggi
