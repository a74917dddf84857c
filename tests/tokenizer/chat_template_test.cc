#include "tokenizer/chat_template.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "tests/tokenizer/golden.h"
#include "tokenizer/tokenizer.h"

namespace onggi {
namespace {

using Json = nlohmann::ordered_json;

const Json kQuestion = {{"role", "user"}, {"content", "q"}};
const Json kAnswer = {{"role", "assistant"}, {"content", "yes"}};
const Json kReasonedAnswer = {{"role", "assistant"}, {"content", "<think>\nhm\n</think>\n\nyes"}};

void expect_golden(const ChatTemplate& chat, const Json& golden) {
  ASSERT_GE(golden["chat"].size(), 18u);
  for (const auto& entry : golden["chat"]) {
    RenderOptions options;
    const Json tools = entry.value("tools", Json());
    if (!tools.is_null()) options.tools = &tools;
    options.add_generation_prompt = entry["add_generation_prompt"].get<bool>();
    if (!entry["enable_thinking"].is_null()) options.enable_thinking = entry["enable_thinking"].get<bool>();
    EXPECT_EQ(chat.render(entry["messages"], options), entry["text"].get<std::string>())
        << entry["messages"].dump();
  }
}

ChatTemplate mini() { return ChatTemplate::of(Tokenizer::load("models/onggi-mini")); }

TEST(ChatTemplate, MatchesTransformersOnOnggiMini) {
  expect_golden(mini(), test::read_json("tests/golden/tokenizer.json"));
}

TEST(ChatTemplate, MatchesTransformersOnQwen3) {
  if (test::qwen3_folder().empty()) GTEST_SKIP() << test::kNoQwen3;
  expect_golden(ChatTemplate::of(Tokenizer::load(test::qwen3_folder())),
                test::read_json("tests/golden/qwen3_tokenizer.json"));
}

std::vector<std::string> trained_parts(const RenderedChat& chat) {
  std::vector<std::string> parts;
  for (const auto& [begin, end] : chat.assistant_spans) parts.push_back(chat.text.substr(begin, end - begin));
  return parts;
}

TEST(ChatTemplate, TrainsOnTheAnswerBehindTheServedPrompt) {
  const Json messages = {kQuestion, kAnswer};
  const auto chats = mini().render_for_training(messages, {nullptr, ThinkMode::kEmpty, nullptr});
  ASSERT_EQ(chats.size(), 1u);
  EXPECT_EQ(chats[0].text,
            "<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\nyes<|im_end|>\n");
  EXPECT_THAT(trained_parts(chats[0]), testing::ElementsAre("yes<|im_end|>\n"));
  // In the other mode the model has to write the empty block itself.
  const auto kept = mini().render_for_training(messages, {nullptr, ThinkMode::kKept, nullptr});
  EXPECT_THAT(trained_parts(kept[0]), testing::ElementsAre("<think>\n\n</think>\n\nyes<|im_end|>\n"));
}

TEST(ChatTemplate, ThinkModeDecidesThePrompt) {
  const Json reasoned = {kQuestion, kReasonedAnswer};
  for (const ThinkMode mode : {ThinkMode::kKept, ThinkMode::kMixed}) {
    const auto chats = mini().render_for_training(reasoned, {nullptr, mode, nullptr});
    EXPECT_THAT(trained_parts(chats[0]), testing::ElementsAre("<think>\nhm\n</think>\n\nyes<|im_end|>\n"));
  }
  EXPECT_THROW(mini().render_for_training(reasoned, {nullptr, ThinkMode::kEmpty, nullptr}), InputError);
  const Json plain = {kQuestion, kAnswer};
  EXPECT_THAT(trained_parts(mini().render_for_training(plain, {nullptr, ThinkMode::kMixed, nullptr})[0]),
              testing::ElementsAre("yes<|im_end|>\n"));
  EXPECT_THROW(mini().render_for_training(Json{kQuestion}), InputError) << "nothing to train on";
}

TEST(ChatTemplate, KeepsTurnsTogetherThatReadAsGenerated) {
  const Json messages = {
      kQuestion, kAnswer, kQuestion, {{"role", "assistant"}, {"content", "no"}}, kQuestion};
  const auto chats = mini().render_for_training(messages);
  ASSERT_EQ(chats.size(), 1u);
  EXPECT_THAT(trained_parts(chats[0]), testing::ElementsAre("yes<|im_end|>\n", "no<|im_end|>\n"));
}

TEST(ChatTemplate, SplitsTurnsThatTheTemplateRewrites) {
  if (test::qwen3_folder().empty()) GTEST_SKIP() << test::kNoQwen3;
  const ChatTemplate qwen3 = ChatTemplate::of(Tokenizer::load(test::qwen3_folder()));
  const Json messages = {kQuestion, kAnswer, kQuestion, {{"role", "assistant"}, {"content", "no"}}};
  const auto chats = qwen3.render_for_training(messages);
  // Qwen3 drops the think block of earlier turns, so that the first turn is trained in a rendering of its
  // own.
  ASSERT_EQ(chats.size(), 2u);
  EXPECT_THAT(trained_parts(chats[0]), testing::ElementsAre("no<|im_end|>\n"));
  EXPECT_THAT(trained_parts(chats[1]), testing::ElementsAre("yes<|im_end|>\n"));
  RenderOptions prompt;
  prompt.enable_thinking = false;
  for (size_t i = 0; i < 2; ++i) {
    Json before = Json::array();
    for (size_t j = 0; j < (i == 0 ? 3u : 1u); ++j) before.push_back(messages[j]);
    EXPECT_EQ(chats[i].text.substr(0, chats[i].assistant_spans[0].first), qwen3.render(before, prompt));
  }
}

TEST(ChatTemplate, PassesWhatTransformersPasses) {
  const ChatTemplate chat(
      "{{ eos_token }}|{{ bos_token is defined }}|{{ tools is none }}|{{ enable_thinking is defined }}|"
      "{{ custom }}",
      {"", "<eos>", ""});
  const Json extra = {{"custom", "한글"}};
  RenderOptions options;
  options.extra = &extra;
  EXPECT_EQ(chat.render(Json::array(), options), "<eos>|False|True|False|한글");
  EXPECT_THROW(chat.render(Json::object()), InputError);
}

TEST(ChatTemplate, NamesThinkModes) {
  for (const ThinkMode mode : {ThinkMode::kEmpty, ThinkMode::kKept, ThinkMode::kMixed}) {
    EXPECT_EQ(think_mode_of(name_of(mode)), mode);
  }
  EXPECT_THROW(think_mode_of("off"), UsageError);
  EXPECT_EQ(enable_thinking_of(ThinkMode::kEmpty), false);
  EXPECT_EQ(enable_thinking_of(ThinkMode::kMixed), std::nullopt);
  EXPECT_TRUE(reasons(kReasonedAnswer));
  EXPECT_FALSE(reasons(kAnswer));
  EXPECT_FALSE(reasons({{"role", "assistant"}, {"content", "<think>\n\n</think>\n\nyes"}}));
  EXPECT_TRUE(reasons({{"role", "assistant"}, {"content", "yes"}, {"reasoning_content", "hm"}}));
  EXPECT_EQ(without_reasoning("<think>\nhm\n</think>\n\nyes"), "yes");
  EXPECT_EQ(without_reasoning("yes"), "yes");
}

}  // namespace
}  // namespace onggi
