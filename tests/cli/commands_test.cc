// The program itself, end to end on onggi-mini: what generate, tokenize, inspect and chat print is held
// against the reference data of tests/golden and against the files. CTest gives the program's path in
// ONGGI_PROGRAM.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <fstream>
#include <nlohmann/json.hpp>
#include <numeric>

#include "formats/safetensors.h"
#include "tests/scratch.h"

namespace onggi {
namespace {

using nlohmann::json;
using testing::HasSubstr;

constexpr const char* kMini = "models/onggi-mini";
constexpr int kEndOfTurn = 8102;  // its <|im_end|>

struct Output {
  int code = -1;
  std::string out, err;
  json parsed() const { return json::parse(out, nullptr, false); }
};

class Program : public testing::Test {
 protected:
  void SetUp() override {
    if (std::getenv("ONGGI_PROGRAM") == nullptr) GTEST_SKIP() << "ONGGI_PROGRAM is not set";
  }

  Output run(const std::vector<std::string>& arguments, const std::string& input = "",
             const std::string& language = "en") const {
    write_file(folder_ / "in", input);
    std::string command = quoted(std::getenv("ONGGI_PROGRAM")) + " --lang " + language;
    for (const std::string& argument : arguments) command += " " + quoted(argument);
    command += " <" + quoted((folder_ / "in").string()) + " >" + quoted((folder_ / "out").string()) + " 2>" +
               quoted((folder_ / "err").string());
    const int status = std::system(command.c_str());
    return {WIFEXITED(status) ? WEXITSTATUS(status) : 128, read_file(folder_ / "out"),
            read_file(folder_ / "err")};
  }
  // One that must work and print JSON.
  json ask(const std::vector<std::string>& arguments, const std::string& input = "") const {
    const Output output = run(arguments, input);
    EXPECT_EQ(output.code, 0) << output.err;
    const json parsed = output.parsed();
    EXPECT_FALSE(parsed.is_discarded()) << output.out;
    return parsed;
  }

  static std::string quoted(const std::string& text) {
    std::string out = "'";
    for (const char c : text) out += c == '\'' ? std::string("'\\''") : std::string(1, c);
    return out + "'";
  }
  static json golden(const std::string& name) {
    return json::parse(read_file("tests/golden/" + name + ".json"));
  }

  TemporaryFolder folder_;
};

TEST_F(Program, TokenizeGivesTheReferencesIds) {
  const json cases = golden("tokenizer").at("tokenizer");
  std::string lines;
  for (const json& entry : cases) lines += entry.at("text").dump() + "\n";
  const Output output = run({"tokenize", "--model", kMini, "--jsonl"}, lines);
  ASSERT_EQ(output.code, 0) << output.err;
  std::istringstream printed(output.out);
  size_t i = 0;
  for (std::string line; std::getline(printed, line); ++i)
    EXPECT_EQ(json::parse(line), cases.at(i).at("ids")) << cases.at(i).at("text");
  EXPECT_EQ(i, cases.size());
  for (const size_t at : {size_t{0}, cases.size() / 2})
    EXPECT_EQ(ask({"tokenize", "--model", kMini, "--json"}, cases.at(at).at("text")),
              json({{"ids", cases.at(at).at("ids")}}));
}

TEST_F(Program, TokenizeMakesControlTokensOrCharacters) {
  const json control = ask({"tokenize", "--model", kMini, "--json"}, "<|im_end|>").at("ids");
  EXPECT_EQ(control.size(), 1u);
  EXPECT_GT(ask({"tokenize", "--model", kMini, "--json", "--no-special"}, "<|im_end|>").at("ids").size(), 1u);
  const Output bad = run({"tokenize", "--model", kMini, "--jsonl"}, "\"good\"\nnot json\n");
  EXPECT_EQ(bad.code, 3);
  EXPECT_THAT(bad.err, HasSubstr("line 2"));
}

TEST_F(Program, GenerateContinuesAsTheReference) {
  const json reference = golden("reference");
  for (const json& entry : reference.at("generate")) {
    const json answer =
        ask({"generate", "--model", kMini, "--precision", "f32", "--raw", "--prompt", entry.at("prompt"),
             "--temperature", "0", "--max-tokens", std::to_string(entry.at("greedy_ids").size()), "--json"});
    std::vector<std::string> keys;
    for (const auto& [key, value] : answer.items()) keys.push_back(key);
    EXPECT_THAT(keys, testing::UnorderedElementsAre("prompt_ids", "ids", "logprobs", "text", "stop_reason",
                                                    "prompt_tokens_per_s", "tokens_per_s"));
    EXPECT_EQ(answer["prompt_ids"], entry.at("prompt_ids"));
    // The reference goes on after an end token as far as it was asked to; the program stops there.
    const size_t count = answer["ids"].size();
    ASSERT_GT(count, 0u);
    EXPECT_EQ(answer["ids"],
              json(std::vector<json>(entry.at("greedy_ids").begin(),
                                     entry.at("greedy_ids").begin() + static_cast<std::ptrdiff_t>(count))))
        << entry.at("prompt");
    const bool ended = answer["ids"].back() == kEndOfTurn;
    EXPECT_EQ(answer["stop_reason"], ended ? "stop" : "length");
    if (!ended) {
      EXPECT_EQ(count, entry.at("greedy_ids").size());
    }
    ASSERT_EQ(answer["logprobs"].size(), count);
    for (const json& logprob : answer["logprobs"]) EXPECT_LE(logprob.get<double>(), 0);
    EXPECT_GT(answer["prompt_tokens_per_s"].get<double>(), 0);
    EXPECT_GT(answer["tokens_per_s"].get<double>(), 0);
    // The text is the ids' text: tokenised again, it is the same ids (all of them are whole characters).
    if (answer["text"].get<std::string>().find("\xEF\xBF\xBD") == std::string::npos && count > 1 &&
        answer["stop_reason"] == "length") {
      EXPECT_EQ(ask({"tokenize", "--model", kMini, "--json"},
                    entry.at("prompt").get<std::string>() + answer["text"].get<std::string>())
                    .at("ids")
                    .size(),
                answer["prompt_ids"].size() + count);
    }
  }
}

TEST_F(Program, ScoreIsTheLogSoftmaxOfTheReferencesLogits) {
  const SafetensorsReader file("tests/golden/logits.safetensors");
  const json cases = golden("reference").at("generate");
  for (size_t i = 0; i < cases.size(); ++i) {
    const json score = ask({"generate", "--model", kMini, "--precision", "f32", "--raw", "--prompt",
                            cases.at(i).at("prompt"), "--score", "--json"});
    const std::vector<int32_t> ids = score["prompt_ids"];
    EXPECT_EQ(score["prompt_ids"], cases.at(i).at("prompt_ids"));
    const TensorView logits = file.tensor("logits." + std::to_string(i));
    ASSERT_EQ(logits.shape[0], static_cast<int64_t>(ids.size()));
    ASSERT_EQ(score["logprobs"].size(), ids.size());
    EXPECT_TRUE(score["logprobs"][0].is_null());
    double sum = 0;
    for (size_t t = 1; t < ids.size(); ++t) {
      std::vector<float> row(static_cast<size_t>(logits.shape[1]));
      read_as_f32(logits, static_cast<int64_t>(t - 1) * logits.shape[1], logits.shape[1], row.data());
      double total = 0;
      for (const float value : row) total += std::exp(static_cast<double>(value));
      const double expected = row[static_cast<size_t>(ids[t])] - std::log(total);
      // Logits are within 2e-3 of the reference's; a log-probability adds the normaliser's error.
      EXPECT_NEAR(score["logprobs"][t].get<double>(), expected, 4e-3) << "prompt " << i << ", token " << t;
      sum += expected;
    }
    if (ids.size() > 1) {
      EXPECT_NEAR(score["mean_nll"].get<double>(), -sum / static_cast<double>(ids.size() - 1), 4e-3);
    }
  }
}

TEST_F(Program, GenerateKeepsToAJsonSchemaAndASeed) {
  write_file(folder_ / "schema.json",
             R"({"type": "object", "properties": {"n": {"enum": [3, 4]}}, "required": ["n"]})");
  const std::vector<std::string> arguments = {"generate",
                                              "--model",
                                              kMini,
                                              "--prompt",
                                              "수를 말해 줘",
                                              "--json-schema",
                                              (folder_ / "schema.json").string(),
                                              "--seed",
                                              "7",
                                              "--temperature",
                                              "1",
                                              "--json"};
  const json first = ask(arguments);
  const json value = json::parse(first["text"].get<std::string>(), nullptr, false);
  ASSERT_TRUE(value.is_object()) << first["text"];
  EXPECT_TRUE(value["n"] == 3 || value["n"] == 4);
  EXPECT_EQ(first["ids"], ask(arguments)["ids"]);
  // Without --json the text alone is printed.
  const Output plain = run({"generate", "--model", kMini, "--precision", "f32", "--raw", "--temperature", "0",
                            "--max-tokens", "8"},
                           "안녕하세요!");
  EXPECT_EQ(plain.code, 0) << plain.err;
  const json same = ask({"generate", "--model", kMini, "--precision", "f32", "--raw", "--temperature", "0",
                         "--max-tokens", "8", "--prompt", "안녕하세요!", "--json"});
  EXPECT_EQ(plain.out, same["text"].get<std::string>() + "\n");
}

TEST_F(Program, InspectCountsWhatTheFolderHolds) {
  const json folder = ask({"inspect", kMini, "--json"});
  EXPECT_EQ(folder["kind"], "hf");
  EXPECT_EQ(folder["config"], json::parse(read_file(std::string(kMini) + "/config.json")));
  const json index = json::parse(read_file(std::string(kMini) + "/model.safetensors.index.json"));
  EXPECT_EQ(folder["totals"]["tensors"], index["weight_map"].size());
  EXPECT_EQ(folder["totals"]["bytes"], index["metadata"]["total_size"]);
  EXPECT_EQ(folder["totals"]["elements"], folder["totals"]["bytes"].get<uint64_t>() / 2);
  EXPECT_EQ(folder["totals"]["by_dtype"],
            json({{"bf16",
                   {{"tensors", index["weight_map"].size()}, {"bytes", index["metadata"]["total_size"]}}}}));
  for (const json& file : folder["files"])
    EXPECT_EQ(file["bytes"], fs::file_size(fs::path(kMini) / file["name"].get<std::string>()));
  std::map<std::string, json> shapes;
  for (const json& tensor : folder["tensors"]) shapes[tensor["name"]] = tensor["shape"];
  const int64_t hidden = folder["config"]["hidden_size"], ffn = folder["config"]["intermediate_size"];
  EXPECT_EQ(shapes.at("model.layers.0.mlp.down_proj.weight"), json({hidden, ffn}));
  EXPECT_EQ(shapes.at("model.embed_tokens.weight"), json({folder["config"]["vocab_size"], hidden}));
  const Output table = run({"inspect", kMini});
  EXPECT_THAT(table.out, HasSubstr("model.layers.0.mlp.down_proj.weight"));
  EXPECT_THAT(table.out, HasSubstr(folder["totals"]["elements"].dump() + " weights"));
}

TEST_F(Program, InspectReadsBackWhatQuantizeWrote) {
  const std::string file = (folder_ / "mini.gguf").string();
  const Output made = run({"quantize", "--help"});
  ASSERT_EQ(made.code, 0);
  const Output quantized = run({"quantize", kMini, file, "--type", "q8_0"});
  ASSERT_EQ(quantized.code, 0) << quantized.err << made.out;
  const json gguf = ask({"inspect", file, "--json"});
  const json config = json::parse(read_file(std::string(kMini) + "/config.json"));
  EXPECT_EQ(gguf["kind"], "gguf");
  EXPECT_EQ(gguf["version"], 3);
  EXPECT_EQ(gguf["metadata"]["general.architecture"], "qwen3");
  EXPECT_EQ(gguf["metadata"]["qwen3.block_count"], config["num_hidden_layers"]);
  EXPECT_EQ(gguf["metadata"]["qwen3.embedding_length"], config["hidden_size"]);
  EXPECT_EQ(gguf["metadata"]["qwen3.attention.head_count_kv"], config["num_key_value_heads"]);
  EXPECT_EQ(gguf["metadata"]["tokenizer.ggml.tokens"]["length"], config["vocab_size"]);
  EXPECT_EQ(gguf["metadata"]["tokenizer.chat_template"],
            read_file(std::string(kMini) + "/chat_template.jinja"));
  const json folder = ask({"inspect", kMini, "--json"});
  EXPECT_EQ(gguf["totals"]["elements"], folder["totals"]["elements"]);
  EXPECT_EQ(gguf["totals"]["tensors"], folder["totals"]["tensors"]);
  // 34 bytes hold 32 weights.
  for (const json& tensor : gguf["tensors"]) {
    if (tensor["dtype"] != "q8_0") continue;
    const std::vector<uint64_t> shape = tensor["shape"];
    const uint64_t elements = std::accumulate(shape.begin(), shape.end(), uint64_t{1}, std::multiplies<>());
    EXPECT_EQ(tensor["bytes"], elements / 32 * 34) << tensor["name"];
  }
  EXPECT_GT(gguf["totals"]["by_dtype"]["q8_0"]["tensors"], 20);
  // The file answers like the folder, nearly.
  const std::vector<std::string> score = {
      "--precision", "f32", "--raw", "--prompt", "깃에서 커밋을 되돌리기", "--score", "--json"};
  std::vector<std::string> of_folder = {"generate", "--model", kMini},
                           of_file = {"generate", "--model", file};
  of_folder.insert(of_folder.end(), score.begin(), score.end());
  of_file.insert(of_file.end(), score.begin(), score.end());
  const json expected = ask(of_folder), actual = ask(of_file);
  EXPECT_EQ(actual["prompt_ids"], expected["prompt_ids"]);
  EXPECT_NEAR(actual["mean_nll"].get<double>(), expected["mean_nll"].get<double>(), 0.05);
}

TEST_F(Program, InspectReadsAdapters) {
  fs::copy_file("tests/golden/adapter_final.safetensors", folder_ / "adapter_model.safetensors");
  write_file(
      folder_ / "adapter_config.json",
      R"({"peft_type": "LORA", "r": 16, "lora_alpha": 16, "target_modules": ["q_proj", "k_proj", "v_proj",
                 "o_proj", "gate_proj", "up_proj", "down_proj"], "base_model_name_or_path": "onggi-mini"})");
  const json adapter = ask({"inspect", folder_.path().string(), "--json"});
  EXPECT_EQ(adapter["kind"], "adapter");
  EXPECT_EQ(adapter["config"]["r"], 16);
  EXPECT_EQ(adapter["totals"]["tensors"], 4 * 7 * 2);  // layers, projections, A and B
  const Output broken = run({"inspect", (folder_ / "nothing").string()});
  EXPECT_EQ(broken.code, 3);
}

TEST_F(Program, ChatNeedsAModelOrAService) {
  const Output neither = run({"chat"}, "hello\n");
  EXPECT_EQ(neither.code, 2);
  EXPECT_THAT(neither.err, HasSubstr("--url"));
  EXPECT_EQ(run({"chat", "--model", kMini, "--url", "http://127.0.0.1:1"}).code, 2);
  const Output nobody = run({"chat", "--url", "http://127.0.0.1:1"}, "hello\n");
  EXPECT_EQ(nobody.code, 3);
  EXPECT_THAT(nobody.err, HasSubstr("no service answers at http://127.0.0.1:1"));
}

// Wrong command lines, in both languages.
TEST_F(Program, ExplainsWrongCommandLines) {
  const struct {
    std::vector<std::string> arguments;
    const char *english, *korean;
  } cases[] = {
      {{}, "give a command", "명령을"},
      {{"serve", "--prot", "1"}, "--prot is not known here", "--prot"},
      {{"serve", "--port"}, "--port needs a value", "--port: 값이 필요합니다"},
      {{"serve", "--port", "many"}, "--port cannot be \"many\"", "\"many\""},
      {{"tokenize"}, "--model is required", "--model: 꼭 필요합니다"},
      {{"--log-level", "loud", "check"}, "cannot be \"loud\"; it is one of", "\"loud\""},
  };
  for (const auto& wrong : cases) {
    const Output english = run(wrong.arguments);
    EXPECT_EQ(english.code, 2) << wrong.english;
    EXPECT_THAT(english.err, testing::StartsWith("onggi: ")) << wrong.english;
    EXPECT_THAT(english.err, HasSubstr(wrong.english));
    const Output korean = run(wrong.arguments, "", "ko");
    EXPECT_EQ(korean.code, 2) << wrong.english;
    EXPECT_THAT(korean.err, HasSubstr(wrong.korean));
    EXPECT_TRUE(std::any_of(korean.err.begin(), korean.err.end(),
                            [](char c) { return static_cast<unsigned char>(c) >= 0xEA; }))
        << "not in Korean: " << korean.err;
  }
}

TEST_F(Program, AWholeTextAsAnArgumentIsAnErrorToo) {
  std::string letters;
  for (int i = 0; i < 30000; ++i) letters += "글";
  const Output output = run({"tokenize", "--model", kMini, letters});
  EXPECT_EQ(output.code, 2);
  EXPECT_THAT(output.err, HasSubstr("글... is not known here"));
  EXPECT_LT(output.err.size(), 600U);
}

}  // namespace
}  // namespace onggi
