#include "data/samples.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/file.h"

namespace onggi {
namespace {

using Json = nlohmann::ordered_json;
using testing::HasSubstr;

const Tokenizer& mini() {
  static const Tokenizer tokenizer = Tokenizer::load("models/onggi-mini");
  return tokenizer;
}
const ChatTemplate& mini_chat() {
  static const ChatTemplate chat = ChatTemplate::of(mini());
  return chat;
}

SampleSet build(const std::string& bytes, const SampleOptions& options = {}) {
  return build_samples(parse_dataset(bytes, DataFormat::kJsonLines, "test.jsonl"), mini(), mini_chat(),
                       options);
}

std::string row(const std::string& question, const std::string& answer) {
  return Json{{"question", question}, {"answer", answer}}.dump() + "\n";
}

TEST(Samples, MatchTheReferenceTraining) {
  const Json golden = Json::parse(read_file("tests/golden/reference.json"))["train"]["samples"];
  ASSERT_EQ(golden.size(), 5u);
  std::string bytes;
  for (const auto& entry : golden) bytes += row(entry["question"], entry["answer"]);
  const SampleSet set = build(bytes);
  ASSERT_EQ(set.samples.size(), 5u);
  for (size_t i = 0; i < 5; ++i) {
    EXPECT_EQ(set.samples[i].ids, golden[i]["input_ids"].get<std::vector<int32_t>>()) << i;
    EXPECT_EQ(set.samples[i].labels, golden[i]["labels"].get<std::vector<int32_t>>()) << i;
    EXPECT_EQ(set.samples[i].line, i + 1);
  }
}

TEST(Samples, ThePromptIsTheServedOne) {
  const SampleSet set = build(row("질문?", "답"));
  const Sample& sample = set.samples[0];
  const size_t prompt = std::find_if(sample.labels.begin(), sample.labels.end(),
                                     [](int32_t label) { return label != kNoLabel; }) -
                        sample.labels.begin();
  RenderOptions options;
  options.enable_thinking = enable_thinking_of(ThinkMode::kEmpty);
  const std::string served = mini_chat().render(Json{{{"role", "user"}, {"content", "질문?"}}}, options);
  EXPECT_EQ(std::vector<int32_t>(sample.ids.begin(), sample.ids.begin() + prompt), mini().encode(served));
  EXPECT_THAT(sample.labels, testing::Contains(mini().eos_id().value())) << "the end of turn is trained";
}

TEST(Samples, TrainOnEverything) {
  const SampleSet set = build(row("q", "a"), {2048, TrainOn::kEverything});
  EXPECT_EQ(set.samples[0].labels, set.samples[0].ids);
  EXPECT_EQ(set.report.trained_tokens, set.report.total_tokens - 1) << "the first token has no prediction";
}

TEST(Samples, ReportsTruncation) {
  std::string long_answer;
  for (int i = 0; i < 100; ++i) long_answer += "긴 답입니다. ";
  SampleOptions options;
  options.cutoff_len = 64;
  std::string long_question = long_answer;
  const SampleSet set = build(row("q", "a") + row("q", long_answer) + row(long_question, "a"), options);
  ASSERT_EQ(set.samples.size(), 2u);
  EXPECT_EQ(set.samples[1].ids.size(), 64u);
  EXPECT_GT(set.samples[1].full_length, 64u);
  ASSERT_EQ(set.report.truncated.size(), 2u);
  EXPECT_EQ(set.report.truncated[0].line, 2u);
  EXPECT_EQ(set.report.truncated[0].full_length, set.samples[1].full_length);
  ASSERT_EQ(set.report.dropped.size(), 1u) << "no trained token of the third row is left";
  EXPECT_EQ(set.report.dropped[0].line, 3u);
  EXPECT_THAT(set.report.dropped[0].reason, HasSubstr("cutoff_len"));
  EXPECT_EQ(set.report.max_length, 64u);
  EXPECT_EQ(set.report.kept_rows, 2u);
  options.cutoff_len = 4;
  EXPECT_THROW(build(row("q", "a"), options), InputError);
}

TEST(Samples, ReasoningIsTrainedWhereItIsKept) {
  const SampleSet set = build(row("q", "<think>\n음\n</think>\n\n답") + row("q", "답"));
  EXPECT_EQ(set.report.think, "mixed");
  EXPECT_THAT(set.report.preview, HasSubstr("assistant\n⟦<think>\n음\n</think>\n\n답<|im_end|>\n⟧"));
  ASSERT_EQ(set.samples.size(), 2u);
  EXPECT_EQ(
      std::count(set.samples[1].labels.begin(), set.samples[1].labels.end(), mini().id_of("<think>").value()),
      0)
      << "the empty block is a part of the prompt";
}

TEST(Samples, OneRowMayGiveSeveralSpans) {
  const Json conversation = {{"messages",
                              {{{"role", "user"}, {"content", "하나"}},
                               {{"role", "assistant"}, {"content", "일"}},
                               {{"role", "user"}, {"content", "둘"}},
                               {{"role", "assistant"}, {"content", "이"}}}}};
  const SampleSet set = build(conversation.dump());
  ASSERT_EQ(set.samples.size(), 1u);
  EXPECT_EQ(mini().decode(set.samples[0].ids),
            mini_chat().render(conversation["messages"], {nullptr, false, false, nullptr}));
  EXPECT_THAT(set.report.preview, HasSubstr("⟦일<|im_end|>\n⟧<|im_start|>user\n둘"));
  EXPECT_THAT(set.report.preview, HasSubstr("⟦이<|im_end|>\n⟧"));
}

TEST(Report, SaysWhatWasKeptAndDropped) {
  const SampleSet set = build(row("q", "a") + "{\"question\": 1}\n" + row("q2", "a2"));
  const std::string text = set.report.to_text();
  EXPECT_THAT(text, HasSubstr("2 kept, 1 dropped"));
  EXPECT_THAT(text, HasSubstr("line 2 dropped"));
  EXPECT_THAT(text, HasSubstr("⟦a<|im_end|>"));
  const Json json = set.report.to_json();
  EXPECT_EQ(json["kept_rows"], 2);
  EXPECT_EQ(json["dropped"][0]["line"], 2);
  EXPECT_EQ(json["tokens"]["total"], set.samples[0].ids.size() + set.samples[1].ids.size());
  EXPECT_NEAR(json["trained_share"].get<double>(), set.report.trained_share(), 1e-12);
  EXPECT_EQ(json["layout"], "question/answer");
}

// The embedded data: what the README's first command trains on.
TEST(EmbeddedData, FitsTheEmbeddedModel) {
  const Dataset train = load_dataset("data/tech_qa_ko.jsonl");
  const Dataset heldout = load_dataset("data/tech_qa_ko_heldout.jsonl");
  EXPECT_EQ(train.rows.size(), 5u);
  EXPECT_EQ(heldout.rows.size(), 10u);
  EXPECT_TRUE(train.dropped.empty() && heldout.dropped.empty());
  std::vector<std::string> domains, styles;
  for (const auto& data_row : train.rows) {
    domains.push_back(data_row.domain);
    styles.push_back(data_row.style);
    const size_t tokens = mini().encode(data_row.answer).size();
    EXPECT_GE(tokens, 60u) << data_row.question;
    EXPECT_LE(tokens, 170u) << data_row.question;
    for (const auto& held : heldout.rows) EXPECT_NE(held.question, data_row.question);
  }
  EXPECT_THAT(domains, testing::UnorderedElementsAre("python", "machine_learning", "web", "docker", "git"));
  std::sort(styles.begin(), styles.end());
  EXPECT_EQ(std::unique(styles.begin(), styles.end()), styles.end()) << "each answer has its own style";
  for (const auto& domain : domains) {
    EXPECT_EQ(std::count_if(heldout.rows.begin(), heldout.rows.end(),
                            [&](const DataRow& held) { return held.domain == domain; }),
              2)
        << domain;
  }
  const SampleSet set = build_samples(train, mini(), mini_chat(), {256, TrainOn::kAnswers});
  EXPECT_TRUE(set.report.truncated.empty());
  EXPECT_LE(set.report.max_length, 256u);
}

}  // namespace
}  // namespace onggi
