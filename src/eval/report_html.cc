#include "eval/report_html.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <sstream>
#include <vector>

#include "base/text.h"

namespace onggi {
namespace {

using Json = nlohmann::ordered_json;

constexpr const char* kStyle = R"css(
:root{color-scheme:light dark;--ink:#1d2530;--soft:#5b6776;--paper:#fbfaf7;--card:#fff;--line:#dfe3e8;--base:#9aa6b4;--tuned:#b4552d;--good:#2f7d4f;--bad:#b3261e}
@media (prefers-color-scheme:dark){:root{--ink:#e8e6e1;--soft:#a3adb8;--paper:#16191d;--card:#1f242a;--line:#343b43;--base:#6f7b88;--tuned:#e08a5f;--good:#6fc28f;--bad:#f2867e}}
*{box-sizing:border-box}body{margin:0;background:var(--paper);color:var(--ink);font:16px/1.6 "Pretendard","Noto Sans KR","Apple SD Gothic Neo",system-ui,sans-serif}
main{max-width:1080px;margin:0 auto;padding:32px 20px 64px}h1{font-size:28px;margin:0 0 4px}h2{font-size:20px;margin:40px 0 12px}
.soft{color:var(--soft)}.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(170px,1fr));gap:12px;margin:24px 0}
.card,.answer{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:14px 16px}.card b{display:block;font-size:26px;line-height:1.25}
.good{color:var(--good)}.bad{color:var(--bad)}svg{width:100%;height:auto;background:var(--card);border:1px solid var(--line);border-radius:10px}
svg text{fill:var(--soft);font-size:12px}.answer{margin:0 0 14px}.answer h3{margin:0 0 6px;font-size:16px}
.pair{display:grid;grid-template-columns:repeat(auto-fit,minmax(260px,1fr));gap:12px;margin-top:8px}.pair div{border-left:3px solid var(--line);padding:2px 0 2px 12px;white-space:pre-wrap;overflow-wrap:anywhere}
.pair .tuned{border-color:var(--tuned)}.pair .base{border-color:var(--base)}.pair b{display:block;font-size:13px;color:var(--soft)}
table{border-collapse:collapse;width:100%}td,th{padding:6px 10px;border-bottom:1px solid var(--line);text-align:right}td:first-child,th:first-child{text-align:left}
)css";

std::string escape(const std::string& text) {
  std::string out;
  for (char c : text) {
    switch (c) {
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '"':
        out += "&quot;";
        break;
      default:
        out += c;
    }
  }
  return out;
}

std::string card(const std::string& label, const std::string& value, const std::string& tone = "") {
  return "<div class=card><span class=soft>" + escape(label) + "</span><b class=\"" + tone + "\">" +
         escape(value) + "</b></div>";
}

std::string percent(double share) { return fmt::format("{:.1f} %", 100 * share); }

struct Point {
  double x, y;
};

// A line chart of the loss over the steps, with a few ruled values.
std::string loss_chart(const std::vector<Point>& points) {
  if (points.size() < 2) return "";
  constexpr double kWidth = 1000, kHeight = 280, kLeft = 56, kBottom = 34, kTop = 14, kRight = 14;
  double top = 0;
  for (const Point& point : points) top = std::max(top, point.y);
  if (top <= 0) return "";
  const double first = points.front().x, last = points.back().x;
  const auto at_x = [&](double x) {
    return kLeft + (x - first) / (last - first) * (kWidth - kLeft - kRight);
  };
  const auto at_y = [&](double y) { return kTop + (1 - y / top) * (kHeight - kTop - kBottom); };
  std::string out = fmt::format("<svg viewBox=\"0 0 {} {}\" role=img aria-label=\"{}\">", kWidth, kHeight,
                                escape(text("Training loss")));
  for (int rule = 0; rule <= 4; ++rule) {
    const double value = top * rule / 4;
    out += fmt::format(
        "<line x1=\"{0}\" x2=\"{1}\" y1=\"{2:.1f}\" y2=\"{2:.1f}\" stroke=\"var(--line)\"/><text x=\"{3}\" "
        "y=\"{4:.1f}\" "
        "text-anchor=end>{5:.2f}</text>",
        kLeft, kWidth - kRight, at_y(value), kLeft - 8, at_y(value) + 4, value);
  }
  std::string path;
  for (const Point& point : points)
    path += fmt::format("{}{:.1f} {:.1f}", path.empty() ? "M" : "L", at_x(point.x), at_y(point.y));
  out += "<path d=\"" + path + "\" fill=none stroke=\"var(--tuned)\" stroke-width=2.2 />";
  out += fmt::format(
      "<text x=\"{}\" y=\"{}\">{} {:.0f}</text><text x=\"{}\" y=\"{}\" text-anchor=end>{} {:.0f}</text>",
      kLeft, kHeight - 10, escape(text("step")), first, kWidth - kRight, kHeight - 10, escape(text("step")),
      last);
  return out + "</svg>";
}

// Two bars a pair: base and tuned.
std::string bar_pair(const std::string& label, double base, double tuned) {
  const double top = std::max({base, tuned, 1e-9});
  const auto bar = [&](double value, const char* colour, int y) {
    return fmt::format(
        "<rect x=\"170\" y=\"{0}\" width=\"{1:.1f}\" height=\"16\" rx=\"3\" fill=\"var(--{2})\"/>"
        "<text x=\"{3:.1f}\" y=\"{4}\">{5:.3f}</text>",
        y, 740 * value / top, colour, 180 + 740 * value / top, y + 13, value);
  };
  return "<svg viewBox=\"0 0 1000 62\"><text x=\"12\" y=\"36\">" + escape(label) + "</text>" +
         bar(base, "base", 12) + bar(tuned, "tuned", 34) + "</svg>";
}

std::vector<Point> losses(const std::string& training_log) {
  std::vector<Point> points;
  std::istringstream lines(training_log);
  std::string line;
  while (std::getline(lines, line)) {
    const Json json = Json::parse(line, nullptr, false);
    if (json.is_object() && json.contains("step") && json.contains("loss"))
      points.push_back({json["step"].get<double>(), json["loss"].get<double>()});
  }
  return points;
}

std::string answer_block(const Json& answer) {
  const auto part = [&](const char* kind, const std::string& title, const char* key) {
    const std::string said = answer.value(key, "");
    if (said.empty()) return std::string();
    return "<div class=" + std::string(kind) + "><b>" + escape(title) + "</b>" + escape(said) + "</div>";
  };
  std::string out =
      "<section class=answer><h3>" + escape(answer.value("question", "")) + "</h3><span class=soft>";
  const std::string domain = answer.value("domain", "");
  if (!domain.empty()) out += escape(domain) + " · ";
  out += escape(text("token match {}, ROUGE-L {:.2f}, chrF {:.2f}, Hangul {}, repetition {}, {}",
                     percent(answer.value("token_match", 0.0)), answer.value("rouge_l", 0.0),
                     answer.value("chrf", 0.0), percent(answer.value("hangul_share", 0.0)),
                     percent(answer.value("repetition", 0.0)),
                     answer.value("stopped", false) ? text("stops by itself") : text("does not stop")));
  out += "</span><div class=pair>" + part("reference", text("Reference"), "reference") +
         part("base", text("Base model"), "base_answer") +
         part("tuned", text("Tuned model"), "tuned_answer") + "</div></section>";
  return out;
}

std::string answers(const std::string& title, const Json& list) {
  if (list.empty()) return "";
  std::string out = "<h2>" + escape(title) + "</h2>";
  for (const Json& answer : list) out += answer_block(answer);
  return out;
}

}  // namespace

std::string render_validation_html(const Json& report, const std::string& training_log) {
  const bool passed = report.value("passed", false);
  const Json& match = report.at("match_rate");
  const Json& loss = report.at("loss");
  std::string out =
      "<!doctype html><html><head><meta charset=utf-8><meta name=viewport content=\"width=device-width\">";
  out += "<title>" + escape(text("Validation of {}", report.value("model", ""))) + "</title><style>" +
         kStyle + "</style></head><body><main>";
  out += "<h1>" + escape(text("Validation of {}", report.value("model", ""))) + "</h1>";
  out += "<p class=soft>" + escape(report.value("verdict_text", "")) + "</p><div class=cards>";
  out += card(text("Result"), passed ? text("passed") : text("failed"), passed ? "good" : "bad");
  out += card(text("Token match"), percent(match.at("token")), passed ? "good" : "bad");
  out += card(text("Character match"), percent(match.at("character")));
  out += card(text("Exact answers"), percent(match.at("exact")));
  out +=
      card(text("Answer speed"), text("{:.1f} tok/s", report.at("speed").value("answer_tokens_per_s", 0.0)));
  out += card(text("Peak memory"), fmt::format("{:.0f} MB", report.value("peak_memory_bytes", 0.0) / 1e6));
  out += "</div><h2>" + escape(text("Training loss")) + "</h2>" + loss_chart(losses(training_log));
  out += "<h2>" + escape(text("Loss of base (grey) and tuned model")) + "</h2>";
  out += bar_pair(text("training data"), loss.at("train").value("base", 0.0),
                  loss.at("train").value("tuned", 0.0));
  if (!report.at("held_out").empty())
    out += bar_pair(text("held-out data"), loss.at("held_out").value("base", 0.0),
                    loss.at("held_out").value("tuned", 0.0));
  out += answers(text("Training questions"), report.at("training"));
  out += answers(text("Held-out questions"), report.at("held_out"));
  return out + "</main></body></html>\n";
}

}  // namespace onggi
