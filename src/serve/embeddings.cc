#include "serve/embeddings.h"

#include <openssl/evp.h>

#include <bit>
#include <cmath>
#include <cstdlib>
#include <deque>
#include <nlohmann/json.hpp>

#include "base/text.h"
#include "serve/request_error.h"
#include "serve/sampling_fields.h"

namespace onggi {
namespace {

using std::chrono::milliseconds;
using std::chrono::steady_clock;

constexpr size_t kMaxInputs = 2048;  // as OpenAI's service has it
constexpr milliseconds kWatch{50};
constexpr int kClientGone = 499;

// One request's inputs, a few of them with the engine at a time, so that they do not fill its queue.
class Batch {
 public:
  Batch(const EmbeddingQuery& query, const EmbeddingRun& run)
      : query_(query), run_(run), deadline_(steady_clock::now() + run.timeout) {}

  Embeddings run() {
    const auto window = static_cast<size_t>(run_.engine.options().max_batch);
    while (done_.vectors.size() < query_.inputs.size()) {
      while (submitted_ < query_.inputs.size() && tickets_.size() < window && submit()) ++submitted_;
      take_oldest();
    }
    return std::move(done_);
  }

 private:
  // False where the queue is full, but for inputs of this request: one of them will make room.
  bool submit() {
    GenerationRequest request;
    request.want = GenerationRequest::Want::kEmbedding;
    request.prompt = query_.inputs[submitted_];
    request.deadline = deadline_;
    try {
      tickets_.push_back(run_.engine.submit(std::move(request)));
      return true;
    } catch (const BusyError&) {
      if (!tickets_.empty()) return false;
      throw RequestError(503, "", text("server busy, please try again.  maximum pending requests exceeded"));
    } catch (const StoppedError& error) {
      throw RequestError(503, "", error.what());
    } catch (const InputError& error) {
      throw RequestError(400, "input", error.what());
    }
  }

  void take_oldest() {
    std::optional<GenerationEvent> event;
    while (!(event = tickets_.front().next(kWatch)))
      if (run_.request.client_gone && run_.request.client_gone())
        throw RequestError(kClientGone, "", text("the client closed the connection"));
    tickets_.pop_front();
    GenerationResult& result = *event->result;  // an embedding has no other event
    if (result.reason == FinishReason::kError)
      throw RequestError(steady_clock::now() >= deadline_ ? 504 : 500, "", result.error);
    if (result.reason == FinishReason::kCancelled)
      throw RequestError(503, "", text("the service is stopping; the answer was not finished"));
    done_.prompt_tokens += result.prompt_tokens;
    run_.recorder.set_prompt_tokens(done_.prompt_tokens);
    normalize(result.embedding, query_.dimensions);
    done_.vectors.push_back(std::move(result.embedding));
  }

  const EmbeddingQuery& query_;
  const EmbeddingRun& run_;
  const steady_clock::time_point deadline_;
  std::deque<Ticket> tickets_;  // dropped, they cancel what is left
  size_t submitted_ = 0;
  Embeddings done_;
};

std::vector<int32_t> ids_of_text(const std::string& input, const LoadedModel& model) {
  std::vector<int32_t> ids = model.tokenizer.encode(input);
  if (ids.empty()) throw RequestError(400, "input", text("\"input\" must not hold an empty text"));
  return ids;
}

std::vector<int32_t> ids_of_array(const Json& array, const Fields& fields) {
  std::vector<int32_t> ids;
  for (const Json& id : array) {
    if (!id.is_number_integer() || id.get<int64_t>() != static_cast<int32_t>(id.get<int64_t>()))
      fields.fail("input", text("\"input\" must hold texts or token ids, not both"));
    ids.push_back(id.get<int32_t>());
  }
  if (ids.empty()) fields.fail("input", text("\"input\" must not be empty"));
  return ids;
}

// A text, or an array of texts.
std::vector<std::string> texts_of(const Fields& fields, const Json& input) {
  if (input.is_string()) return {input.get<std::string>()};
  if (!input.is_array()) fields.fail("input", text("\"input\" must be a text or an array of texts"));
  std::vector<std::string> texts;
  for (const Json& one : input) {
    if (!one.is_string()) fields.fail("input", text("\"input\" must be a text or an array of texts"));
    texts.push_back(one.get<std::string>());
  }
  return texts;
}

// Numbers as short as f32 can be told apart by, not with the digits of a double.
double shortest(float value) { return std::strtod(fmt::format("{}", value).c_str(), nullptr); }

Json numbers(const std::vector<float>& vector) {
  Json array = Json::array();
  for (const float value : vector) array.push_back(shortest(value));
  return array;
}

std::string base64(const std::vector<float>& vector) {
  static_assert(std::endian::native == std::endian::little);
  const size_t bytes = vector.size() * sizeof(float);
  std::string encoded((bytes + 2) / 3 * 4 + 1, '\0');
  const int size =
      EVP_EncodeBlock(reinterpret_cast<unsigned char*>(encoded.data()),
                      reinterpret_cast<const unsigned char*>(vector.data()), static_cast<int>(bytes));
  encoded.resize(static_cast<size_t>(size));
  return encoded;
}

// The ids of a text in Ollama's dialect, where a long one is cut if the client allows it.
std::vector<int32_t> ollama_ids(const std::string& input, const Fields& fields, const LoadedModel& model,
                                const ServedModel& served) {
  std::vector<int32_t> ids = ids_of_text(input, model);
  int64_t limit = served.context_length - 1;  // the engine keeps a place for an answer
  if (const Json* given = fields.object("options"))
    if (const auto context = Fields(*given, "options").integer("num_ctx", {1, 1e9}))
      limit = std::min(limit, *context);
  if (static_cast<int64_t>(ids.size()) <= limit) return ids;
  if (!fields.boolean("truncate").value_or(true))
    throw RequestError(400, "input", text("the input length exceeds the context length"));
  ids.resize(static_cast<size_t>(limit));
  return ids;
}

}  // namespace

void normalize(std::vector<float>& vector, int64_t dimensions) {
  if (dimensions > 0 && static_cast<size_t>(dimensions) < vector.size())
    vector.resize(static_cast<size_t>(dimensions));
  double squares = 0;
  for (const float value : vector) squares += double{value} * value;
  if (squares == 0) return;
  const double scale = 1 / std::sqrt(squares);
  for (float& value : vector) value = static_cast<float>(value * scale);
}

Embeddings embed(const EmbeddingQuery& query, const EmbeddingRun& run) { return Batch(query, run).run(); }

EmbeddingQuery parse_openai_embeddings(const Json& body, const LoadedModel& model,
                                       const ServedModel& served) {
  const Fields fields(body);
  check_model(fields, served);
  EmbeddingQuery query;
  const Json* input = fields.find("input");
  if (input == nullptr) fields.fail("input", text("\"input\" is required"));
  if (input->is_array() && input->empty()) fields.fail("input", text("\"input\" must not be empty"));
  if (input->is_array() && input->front().is_number()) {
    query.inputs.push_back(ids_of_array(*input, fields));
  } else if (input->is_array() && input->front().is_array()) {
    for (const Json& one : *input) {
      if (!one.is_array()) fields.fail("input", text("\"input\" must hold texts or token ids, not both"));
      query.inputs.push_back(ids_of_array(one, fields));
    }
  } else {
    for (const std::string& one : texts_of(fields, *input)) query.inputs.push_back(ids_of_text(one, model));
  }
  if (query.inputs.size() > kMaxInputs)
    fields.fail("input", text("\"input\" may hold at most {} texts", kMaxInputs));
  const auto width = static_cast<double>(model.model->config.hidden_size);
  query.dimensions = fields.integer("dimensions", {1, width}).value_or(0);
  const std::string format = fields.string("encoding_format").value_or("float");
  if (format != "float" && format != "base64")
    fields.fail("encoding_format", text("\"encoding_format\" must be \"float\" or \"base64\""));
  return query;
}

Json openai_embeddings(const Json& body, const std::string& model, const Embeddings& embeddings) {
  const bool as_base64 = Fields(body).string("encoding_format").value_or("float") == "base64";
  Json data = Json::array();
  for (const std::vector<float>& vector : embeddings.vectors)
    data.push_back({{"object", "embedding"},
                    {"index", data.size()},
                    {"embedding", as_base64 ? Json(base64(vector)) : numbers(vector)}});
  return {
      {"object", "list"},
      {"data", std::move(data)},
      {"model", model},
      {"usage", {{"prompt_tokens", embeddings.prompt_tokens}, {"total_tokens", embeddings.prompt_tokens}}}};
}

EmbeddingQuery parse_ollama_embed(const Json& body, const LoadedModel& model, const ServedModel& served) {
  const Fields fields(body);
  check_model(fields, served);
  EmbeddingQuery query;
  if (const Json* input = fields.find("input"); input != nullptr && *input != "")
    for (const std::string& one : texts_of(fields, *input))
      query.inputs.push_back(ollama_ids(one, fields, model, served));
  if (query.inputs.size() > kMaxInputs)
    fields.fail("input", text("\"input\" may hold at most {} texts", kMaxInputs));
  query.dimensions = fields.integer("dimensions", {0, 1e9}).value_or(0);
  return query;
}

EmbeddingQuery parse_ollama_embeddings(const Json& body, const LoadedModel& model,
                                       const ServedModel& served) {
  const Fields fields(body);
  check_model(fields, served);
  EmbeddingQuery query;
  if (const auto prompt = fields.string("prompt"); prompt && !prompt->empty())
    query.inputs.push_back(ollama_ids(*prompt, fields, model, served));
  return query;
}

Json ollama_embed(const std::string& model, const Embeddings& embeddings, double seconds) {
  Json vectors = Json::array();
  for (const std::vector<float>& vector : embeddings.vectors) vectors.push_back(numbers(vector));
  return {{"model", model},
          {"embeddings", std::move(vectors)},
          {"total_duration", static_cast<int64_t>(seconds * 1e9)},
          {"load_duration", 0},
          {"prompt_eval_count", embeddings.prompt_tokens}};
}

Json ollama_embeddings(const Embeddings& embeddings) {
  if (embeddings.vectors.empty()) return {{"embedding", Json::array()}};
  return {{"embedding", numbers(embeddings.vectors.front())}};
}

}  // namespace onggi
