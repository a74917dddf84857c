// The facts about a model that the APIs tell.
#pragma once

#include <string>
#include <vector>

#include "infer/chat_model.h"
#include "infer/engine.h"
#include "serve/query.h"

namespace onggi {

struct ModelLabels {
  std::vector<std::string> names;  // what clients may call it; empty: the model's own name
  std::string quantization;        // "Q4_K_M"; empty: from the weights' dtype
};

// max_new_tokens: per answer where a request names no limit.
ServedModel describe_served_model(const LoadedModel& model, const ModelLabels& labels, const Engine& engine,
                                  int64_t max_new_tokens);

// "8.2B", "751.6M", as Ollama writes it.
std::string parameter_size_text(uint64_t parameters);

}  // namespace onggi
