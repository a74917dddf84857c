// The fields that all dialects share, under the names that each of them uses.
#pragma once

#include <string>
#include <vector>

#include "infer/sampler.h"
#include "serve/fields.h"
#include "serve/query.h"

namespace onggi {

// temperature, top_p, top_k, min_p, typical_p, repeat_penalty (repetition_penalty), repeat_last_n,
// presence_penalty, frequency_penalty, seed: those that are there replace the values in sampling.
void read_sampling(const Fields& fields, SamplingParams& sampling);

// "stop", or the dialect's name for it: one string or an array of at most 16; empty strings are refused.
std::vector<std::string> read_stop(const Fields& fields, const char* name = "stop");

// Throws RequestError: 400 where "model" is missing, 404 where it is not the served one. Returns the name as
// it was written.
std::string check_model(const Fields& fields, const ServedModel& model);
[[noreturn]] void fail_unknown_model(const std::string& name, const ServedModel& model);

}  // namespace onggi
