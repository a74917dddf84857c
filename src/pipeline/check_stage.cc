#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/text.h"
#include "pipeline/check.h"
#include "pipeline/stage.h"

namespace onggi {

StageOutcome run_check(StageContext& context) {
  const CheckReport report = check_machine(context.config);
  context.reporter.say(report.to_text());
  if (report.falls_short())
    throw MachineError(text("this machine does not suffice for {}: see the table above for what is short",
                            context.config.model_name));
  StageOutcome outcome;
  outcome.results["report"] = nlohmann::ordered_json::parse(report.to_json());
  outcome.summary = report.device.device.name;
  return outcome;
}

}  // namespace onggi
