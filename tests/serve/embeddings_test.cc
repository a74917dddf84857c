// Embeddings over HTTP, with the embedded model, held against passes of the model in this process.
#include "serve/embeddings.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "tests/serve/mini_service.h"

namespace onggi {
namespace {

using Vector = std::vector<double>;

const MiniService& mini() {
  static const MiniService service;
  return service;
}

double dot(const Vector& a, const Vector& b) {
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i) sum += a[i] * b[i];
  return sum;
}

Vector one(const Json& response) { return response["data"][0]["embedding"].get<Vector>(); }

// The text's last hidden state, recovered from logits alone: those of the output matrix E [V, C] are E h.
TEST(Embeddings, PointWhereTheLogitsSay) {
  const std::string input = "도커 이미지와 컨테이너";
  const Vector vector = one(post(mini().client(), "/v1/embeddings", {{"model", "mini"}, {"input", input}}));
  EXPECT_NEAR(dot(vector, vector), 1, 1e-6);
  ThreadPool threads(2);
  const LoadedModel loaded = load_chat_model("models/onggi-mini", {}, threads);
  ASSERT_EQ(vector.size(), static_cast<size_t>(loaded.model->config.hidden_size));
  ComputeDevice device{Device{}};
  ComputeSession session(device, threads, Precision::kF32);
  KvCache cache(loaded.model->config, 4, DType::kF32);
  KvSequence sequence(cache);
  const std::vector<int32_t> ids = loaded.tokenizer.encode(input);
  ASSERT_TRUE(sequence.reserve(static_cast<int64_t>(ids.size())));
  InferenceBuffers buffers;
  const SequenceInput last{&sequence, ids};
  const float* logits = infer(*loaded.model, session.compute(), cache, {&last, 1}, buffers);
  // E h and E v are parallel where v is h scaled; the service computes in bf16.
  const auto* matrix = static_cast<const uint16_t*>(loaded.model->lm_head.data);
  double both = 0, ours = 0, theirs = 0;
  for (int64_t v = 0; v < loaded.model->config.vocab_size; ++v) {
    double product = 0;
    for (size_t k = 0; k < vector.size(); ++k)
      product += vector[k] * bf16_to_f32(matrix[static_cast<size_t>(v) * vector.size() + k]);
    both += product * logits[v];
    ours += product * product;
    theirs += double{logits[v]} * logits[v];
  }
  EXPECT_GT(both / std::sqrt(ours * theirs), 0.9995);
}

TEST(Embeddings, EveryDialectGivesTheSame) {
  const Json request = {{"model", "mini"}, {"input", {"first text", "두 번째"}}};
  const Json openai = post(mini().client(), "/v1/embeddings", request);
  ASSERT_EQ(openai["data"].size(), 2u);
  EXPECT_EQ(openai["data"][1]["index"], 1);
  EXPECT_EQ(openai["model"], "mini");
  const Json ollama = post(mini().ollama(), "/api/embed", request);
  ASSERT_EQ(ollama["embeddings"].size(), 2u);
  EXPECT_EQ(ollama["prompt_eval_count"], openai["usage"]["prompt_tokens"]);
  EXPECT_GT(ollama["total_duration"], 0);
  const Json old = post(mini().ollama(), "/api/embeddings", {{"model", "mini"}, {"prompt", "두 번째"}});
  const Json ids = Tokenizer::load("models/onggi-mini").encode("두 번째");
  const Json of_ids = post(mini().client(), "/v1/embeddings", {{"model", "mini"}, {"input", ids}});
  const Json of_arrays =
      post(mini().client(), "/v1/embeddings", {{"model", "mini"}, {"input", Json::array({ids})}});
  const Vector second = openai["data"][1]["embedding"].get<Vector>();
  for (const Json& other : {ollama["embeddings"][1], old["embedding"], of_ids["data"][0]["embedding"],
                            of_arrays["data"][0]["embedding"]})
    EXPECT_GT(dot(second, other.get<Vector>()), 0.9999);
  EXPECT_LT(dot(second, openai["data"][0]["embedding"].get<Vector>()), 0.99);
}

TEST(Embeddings, Base64IsTheSameNumbers) {
  Json request = {{"model", "mini"}, {"input", "a b c"}, {"dimensions", 5}};
  const Vector numbers = one(post(mini().client(), "/v1/embeddings", request));
  ASSERT_EQ(numbers.size(), 5u);
  EXPECT_NEAR(dot(numbers, numbers), 1, 1e-6);
  request["encoding_format"] = "base64";
  const std::string encoded =
      post(mini().client(), "/v1/embeddings", request)["data"][0]["embedding"].get<std::string>();
  ASSERT_EQ(encoded.size(), 28u);  // 20 bytes
  const std::string digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string bytes;
  for (size_t i = 0; i < 28; i += 4) {
    uint32_t group = 0;
    for (size_t j = 0; j < 4; ++j)
      group = group << 6 | static_cast<uint32_t>(encoded[i + j] == '=' ? 0 : digits.find(encoded[i + j]));
    bytes += {static_cast<char>(group >> 16), static_cast<char>(group >> 8), static_cast<char>(group)};
  }
  std::vector<float> decoded(5);
  std::memcpy(decoded.data(), bytes.data(), 20);
  for (size_t i = 0; i < 5; ++i) EXPECT_NEAR(decoded[i], numbers[i], 1e-4) << i;
}

TEST(Embeddings, NoTextLoadsTheModel) {
  EXPECT_EQ(post(mini().ollama(), "/api/embed", {{"model", "mini"}})["embeddings"], Json::array());
  EXPECT_EQ(post(mini().ollama(), "/api/embed", {{"model", "mini"}, {"input", ""}})["embeddings"],
            Json::array());
  EXPECT_EQ(post(mini().ollama(), "/api/embeddings", {{"model", "mini"}, {"prompt", ""}})["embedding"],
            Json::array());
}

TEST(Embeddings, OllamaCutsLongTextsUnlessToldNotTo) {
  std::string longer;
  for (int i = 0; i < 3000; ++i) longer += "word ";
  Json request = {{"model", "mini"}, {"input", longer}};
  EXPECT_EQ(post(mini().ollama(), "/api/embed", request)["prompt_eval_count"], 2047);
  request["truncate"] = false;
  EXPECT_THAT(post(mini().ollama(), "/api/embed", request, 400)["error"].get<std::string>(),
              testing::HasSubstr("exceeds the context length"));
  EXPECT_THAT(dump(post(mini().client(), "/v1/embeddings", {{"model", "mini"}, {"input", longer}}, 400)),
              testing::HasSubstr("2048"));
}

TEST(Embeddings, ManyTextsFitThroughASmallQueue) {
  ServerConfig config = free_ports();
  config.max_queue = 1;
  config.max_batch = 2;
  const MiniService small(config);
  Json texts = Json::array();
  for (int i = 0; i < 40; ++i) texts.push_back("text " + std::to_string(i));
  const Json all = post(small.client(), "/v1/embeddings", {{"model", "mini"}, {"input", texts}});
  ASSERT_EQ(all["data"].size(), 40u);
  const Vector last = one(post(small.client(), "/v1/embeddings", {{"model", "mini"}, {"input", "text 39"}}));
  EXPECT_GT(dot(all["data"][39]["embedding"].get<Vector>(), last), 0.9999);
}

TEST(OllamaChanges, AreRefusedAsPreciselyAsPossible) {
  auto client = mini().ollama();
  const std::string blob = "/api/blobs/sha256:" + std::string(64, '0');
  EXPECT_EQ(client.Head(blob)->status, 404);
  EXPECT_EQ(client.Post(blob, "x", "application/octet-stream")->status, 501);
  EXPECT_EQ(client.Delete("/api/delete", R"({"model": "other"})", "application/json")->status, 404);
  EXPECT_EQ(client.Delete("/api/delete", R"({"model": "mini"})", "application/json")->status, 501);
  post(mini().ollama(), "/api/copy", {{"source", "other"}, {"destination", "b"}}, 404);
  post(mini().ollama(), "/api/copy", {{"source", "mini"}, {"destination", "b"}}, 501);
}

}  // namespace
}  // namespace onggi
