#include "eval/report_html.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <regex>

#include "eval/validation.h"

namespace onggi {
namespace {

using testing::HasSubstr;
using testing::Not;

ValidationReport sample_report() {
  ValidationReport report;
  AnswerReport answer;
  answer.question = "Is <b> & \"bold\"?";
  answer.reference = "the reference";
  answer.domain = "web";
  answer.base_answer = "what the base said";
  answer.tuned_answer = "<script>alert(1)</script>";
  answer.token_match = 0.875;
  answer.rouge_l = 0.25;
  answer.chrf = 0.5;
  answer.hangul = 0.125;
  answer.repetition = 0.0625;
  answer.stopped = true;
  report.training = {answer};
  answer.question = "held out";
  answer.stopped = false;
  report.held_out = {answer};
  report.exact_rate = 0.2;
  report.token_match = 0.991;
  report.character_match = 0.985;
  report.train_loss_base = 9.5;
  report.train_loss_tuned = 0.125;
  report.held_out_loss_base = 8;
  report.held_out_loss_tuned = 10;
  report.verdict = FitVerdict::kOverfitted;
  report.answer_tokens_per_second = 123.4;
  report.peak_memory_bytes = 456'000'000;
  report.passed = true;
  return report;
}

std::string rendered(const ValidationReport& report, const std::string& log) {
  auto json = report.to_json();
  json["model"] = "mini & more";
  return render_validation_html(json, log);
}

constexpr const char* kLog =
    "{\"step\": 1, \"loss\": 8.0}\nnot json\n{\"step\": 3, \"loss\": 4.0}\n{\"step\": 5, \"loss\": 0.0}\n";

TEST(ReportHtml, ShowsTheFigures) {
  const std::string html = rendered(sample_report(), kLog);
  for (const char* part :
       {"99.1 %", "98.5 %", "20.0 %", "123.4 tok/s", "456 MB", "mini &amp; more", "passed",
        "token match 87.5 %, ROUGE-L 0.25, chrF 0.50, Hangul 12.5 %, repetition 6.2 %, stops",
        "does not stop", "the reference", "what the base said", "held out", "overfitted", ">9.500<",
        ">0.125<", ">8.000<", ">10.000<"})
    EXPECT_THAT(html, HasSubstr(part));
}

TEST(ReportHtml, EscapesWhatModelsSay) {
  const std::string html = rendered(sample_report(), kLog);
  EXPECT_THAT(html, HasSubstr("Is &lt;b&gt; &amp; &quot;bold&quot;?"));
  EXPECT_THAT(html, HasSubstr("&lt;script&gt;alert(1)&lt;/script&gt;"));
  EXPECT_THAT(html, Not(HasSubstr("<script")));
}

TEST(ReportHtml, DrawsTheLossCurve) {
  const std::string html = rendered(sample_report(), kLog);
  std::smatch found;
  ASSERT_TRUE(std::regex_search(
      html, found, std::regex(R"(<path d="M([\d.]+) ([\d.]+)L([\d.]+) ([\d.]+)L([\d.]+) ([\d.]+)\")")));
  std::vector<double> at;
  for (size_t i = 1; i < found.size(); ++i) at.push_back(std::stod(found[i]));
  // Equal steps lie equally far apart, and half the loss lies half way down.
  EXPECT_NEAR(at[2] - at[0], at[4] - at[2], 0.2);
  EXPECT_NEAR(at[3] - at[1], at[5] - at[3], 0.2);
  EXPECT_LT(at[1], at[5]);
  // The highest rule is the highest loss.
  EXPECT_THAT(html, HasSubstr(">8.00<"));
}

TEST(ReportHtml, NeedsNothingFromOutside) {
  const std::string html = rendered(sample_report(), kLog);
  for (const char* reference : {"http://", "https://", "src=", "href=", "@import", "url("})
    EXPECT_THAT(html, Not(HasSubstr(reference)));
}

TEST(ReportHtml, LeavesOutWhatThereIsNot) {
  ValidationReport report = sample_report();
  report.held_out.clear();
  report.passed = false;
  const std::string html = rendered(report, "");
  EXPECT_THAT(html, Not(HasSubstr("held-out data")));
  EXPECT_THAT(html, Not(HasSubstr("<path")));
  EXPECT_THAT(html, HasSubstr("failed"));
}

}  // namespace
}  // namespace onggi
