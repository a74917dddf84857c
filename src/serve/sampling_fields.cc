#include "serve/sampling_fields.h"

#include <nlohmann/json.hpp>

#include "base/text.h"
#include "serve/request_error.h"

namespace onggi {

void read_sampling(const Fields& fields, SamplingParams& sampling) {
  const auto number = [&](const char* name, NumberRange range, double& value) {
    if (const auto given = fields.number(name, range)) value = *given;
  };
  number("temperature", {0, 100}, sampling.temperature);
  number("top_p", {0, 1}, sampling.top_p);
  number("min_p", {0, 1}, sampling.min_p);
  number("typical_p", {0, 1}, sampling.typical_p);
  number("repeat_penalty", {0, 100}, sampling.repeat_penalty);
  number("repetition_penalty", {0, 100}, sampling.repeat_penalty);
  number("presence_penalty", {-2, 2}, sampling.presence_penalty);
  number("frequency_penalty", {-2, 2}, sampling.frequency_penalty);
  // -1 means "all" in some clients, 0 in others.
  if (const auto top_k = fields.integer("top_k", {-1, 1e9})) sampling.top_k = std::max<int64_t>(*top_k, 0);
  if (const auto last_n = fields.integer("repeat_last_n", {-1, 1e9})) sampling.repeat_last_n = *last_n;
  if (const auto seed = fields.integer("seed")) sampling.seed = static_cast<uint64_t>(*seed);
}

std::vector<std::string> read_stop(const Fields& fields, const char* name) {
  constexpr size_t kMaxStops = 16;
  auto stops = fields.strings(name);
  if (stops.size() > kMaxStops)
    fields.fail(name, text("\"{}\" may hold at most {} strings", fields.path_of(name), kMaxStops));
  for (const std::string& stop : stops)
    if (stop.empty()) fields.fail(name, text("\"{}\" must not hold an empty string", fields.path_of(name)));
  return stops;
}

void fail_unknown_model(const std::string& name, const ServedModel& model) {
  throw RequestError(404, "model",
                     text("model \"{}\" not found, try pulling it first; this service has \"{}\"", name,
                          model.names.front()));
}

std::string check_model(const Fields& fields, const ServedModel& model) {
  std::string name = fields.require_string("model");
  if (!is_served(model, name)) fail_unknown_model(name, model);
  return name;
}

}  // namespace onggi
