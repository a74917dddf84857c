#include "data/samples.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/text.h"

namespace onggi {
namespace {

using Json = nlohmann::ordered_json;

std::vector<RenderedChat> render(const DataRow& row, const ChatTemplate& chat, ThinkMode think) {
  const Json messages = Json::parse(row.messages_json);
  const Json tools = row.tools_json.empty() ? Json() : Json::parse(row.tools_json);
  TrainingRenderOptions options;
  options.think = think;
  if (!tools.is_null()) options.tools = &tools;
  return chat.render_for_training(messages, options);
}

// The first token of a sample is predicted from nothing, so that its label would never be used.
size_t count_labels(const Sample& sample) {
  if (sample.labels.empty()) return 0;
  return static_cast<size_t>(std::count_if(sample.labels.begin() + 1, sample.labels.end(),
                                           [](int32_t label) { return label != kNoLabel; }));
}

std::string preview_of(const Sample& sample, const Tokenizer& tokenizer) {
  std::string preview;
  for (size_t begin = 0; begin < sample.ids.size();) {
    const bool trained = sample.labels[begin] != kNoLabel;
    size_t end = begin;
    while (end < sample.ids.size() && (sample.labels[end] != kNoLabel) == trained) ++end;
    const std::string part = tokenizer.decode({sample.ids.data() + begin, end - begin});
    preview += trained ? kTrainedBegin + part + kTrainedEnd : part;
    begin = end;
  }
  return preview;
}

void fill_lengths(const std::vector<Sample>& samples, DatasetReport& report) {
  std::vector<size_t> lengths;
  for (const Sample& sample : samples) {
    lengths.push_back(sample.ids.size());
    report.total_tokens += sample.ids.size();
    report.trained_tokens += count_labels(sample);
  }
  std::sort(lengths.begin(), lengths.end());
  report.min_length = lengths.front();
  report.median_length = lengths[lengths.size() / 2];
  report.max_length = lengths.back();
}

}  // namespace

Sample encode_chat(const RenderedChat& chat, const Tokenizer& tokenizer, TrainOn train_on) {
  Sample sample;
  const std::string_view whole = chat.text;
  const auto append = [&](size_t begin, size_t end, bool trained) {
    const std::vector<int32_t> ids = tokenizer.encode(whole.substr(begin, end - begin));
    sample.ids.insert(sample.ids.end(), ids.begin(), ids.end());
    if (trained) {
      sample.labels.insert(sample.labels.end(), ids.begin(), ids.end());
    } else {
      sample.labels.resize(sample.ids.size(), kNoLabel);
    }
  };
  size_t done = 0;
  for (const auto& [begin, end] : chat.assistant_spans) {
    append(done, begin, train_on == TrainOn::kEverything);
    append(begin, end, true);
    done = end;
  }
  append(done, whole.size(), train_on == TrainOn::kEverything);
  sample.full_length = sample.ids.size();
  return sample;
}

SampleSet build_samples(const Dataset& dataset, const Tokenizer& tokenizer, const ChatTemplate& chat,
                        const SampleOptions& options) {
  SampleSet set;
  DatasetReport& report = set.report;
  report.name = dataset.name;
  report.sha256 = dataset.sha256;
  report.layout = std::string(name_of(dataset.layout));
  report.think = std::string(name_of(dataset.think));
  report.cutoff_len = options.cutoff_len;
  report.dropped = dataset.dropped;

  for (const DataRow& row : dataset.rows) {
    try {
      std::vector<Sample> samples;
      for (const RenderedChat& rendered : render(row, chat, dataset.think)) {
        Sample sample = encode_chat(rendered, tokenizer, options.train_on);
        sample.line = row.line;
        if (sample.ids.size() > options.cutoff_len) {
          report.truncated.push_back({row.line, sample.full_length});
          sample.ids.resize(options.cutoff_len);
          sample.labels.resize(options.cutoff_len);
        }
        if (count_labels(sample) > 0) samples.push_back(std::move(sample));
      }
      if (samples.empty()) {
        throw InputError(
            text("the prompt alone fills cutoff_len ({} tokens), so that nothing of the answer is left",
                 options.cutoff_len));
      }
      ++report.kept_rows;
      std::move(samples.begin(), samples.end(), std::back_inserter(set.samples));
    } catch (const InputError& error) {
      report.dropped.push_back({row.line, error.what()});
    }
  }
  std::stable_sort(report.dropped.begin(), report.dropped.end(),
                   [](const DroppedRow& a, const DroppedRow& b) { return a.line < b.line; });
  if (set.samples.empty()) {
    throw InputError(text("{} has no row that can be trained on; line {}: {}", dataset.name,
                          report.dropped[0].line, report.dropped[0].reason));
  }
  report.samples = set.samples.size();
  fill_lengths(set.samples, report);
  report.preview = preview_of(set.samples.front(), tokenizer);
  return set;
}

}  // namespace onggi
