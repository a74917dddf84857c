// The deployment's gate: a service that serves another model than the file is found out, by name and prompt.
#include "pipeline/service_probe.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/scratch.h"
#include "tests/serve/mini_service.h"

namespace onggi {
namespace {

using testing::ContainsRegex;
using testing::HasSubstr;

class ServiceProbe : public testing::Test {
 protected:
  // What a model file says, before the service is asked.
  ParityReference reference_of(const fs::path& folder) {
    const LoadedModel model = load_chat_model(folder, {}, threads_);
    return ParityReference(model, session_.compute(), prompts_, 12, folder.string());
  }
  ParityResult probe(const ParityReference& reference) {
    const MiniService mini;
    const Tokenizer tokenizer = Tokenizer::load("models/onggi-mini");
    return probe_parity({mini.service.url(), mini.service.ollama_url(), "mini", ""}, reference, tokenizer,
                        8192, {1e-3, 0.99});
  }

  ThreadPool threads_{2};
  ComputeDevice device_{Device{}};
  ComputeSession session_{device_, threads_, Precision::kFast};
  std::vector<std::string> prompts_ = {
      R"([{"role": "user", "content": "안녕하세요"}])",
      R"([{"role": "system", "content": "짧게."}, {"role": "user", "content": "Docker란?"}])"};
};

TEST_F(ServiceProbe, TheServedFilePasses) {
  const ParityResult result = probe(reference_of("models/onggi-mini"));
  EXPECT_TRUE(result.passed) << result.reason;
  EXPECT_GT(result.positions, 12);
  EXPECT_TRUE(result.prompts_equal);
}

TEST_F(ServiceProbe, AnotherModelIsNamedWithAPrompt) {
  const TemporaryFolder copy;
  for (const auto& entry : fs::directory_iterator("models/onggi-mini"))
    fs::copy_file(entry.path(), copy / entry.path().filename().string());
  // The second half of a shard's weights is lost: both files have the same tensors.
  const fs::path shard = copy / "model-00002-of-00003.safetensors";
  std::string bytes = read_file(shard);
  std::fill(bytes.begin() + static_cast<std::ptrdiff_t>(bytes.size() / 2), bytes.end(), '\0');
  write_file(shard, bytes);
  const ParityResult result = probe(reference_of(copy.path()));
  EXPECT_FALSE(result.passed);
  EXPECT_THAT(result.artefact, HasSubstr("the service at http://127.0.0.1:"));
  EXPECT_THAT(result.reason, ContainsRegex("prompt [12]"));
}

TEST_F(ServiceProbe, AnotherTemplateIsNoticedByItsIds) {
  const TemporaryFolder copy;
  for (const auto& entry : fs::directory_iterator("models/onggi-mini"))
    fs::copy_file(entry.path(), copy / entry.path().filename().string());
  std::string chat = read_file(copy / "chat_template.jinja");
  const std::string role = R"(message.role + '\n')";
  ASSERT_NE(chat.find(role), std::string::npos);
  write_file(copy / "chat_template.jinja",
             chat.replace(chat.find(role), role.size(), R"(message.role + ' \n')"));
  const ParityResult result = probe(reference_of(copy.path()));
  EXPECT_FALSE(result.prompts_equal);
  EXPECT_EQ(result.reason, "the token ids of prompt 1 differ");
}

}  // namespace
}  // namespace onggi
