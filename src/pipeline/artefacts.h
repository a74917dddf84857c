// The files that a stage left are what its parity gate judged. A stage that takes them up, perhaps days
// later, looks whether they are still the same bytes; where they are not, the gate is asked again.
#pragma once

#include "pipeline/stage.h"

namespace onggi {

// Of the merged model, before conversion: against the adapter on its training base. Throws WorkError where
// the files changed and the gate fails.
void confirm_merged(StageContext& context);
// Of the GGUF file that is served, before deployment: against the merged model.
void confirm_converted(StageContext& context);

}  // namespace onggi
