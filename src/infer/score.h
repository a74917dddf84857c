// Scoring given tokens instead of generating: log-probabilities, loss, and rows of logits for comparing
// models.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "model/inference.h"

namespace onggi {

struct ScoreOptions {
  int64_t chunk = 256;  // tokens per pass
};

struct Score {
  // [T - 1]: logprobs[i] = log p(ids[i + 1] | ids[0 .. i]), natural logarithm.
  std::vector<float> logprobs;
  double mean_nll = 0;  // nats per token; 0 for fewer than two tokens
};

// The log-probability of each token of ids [T] but the first. Throws InputError for ids outside the
// vocabulary or more tokens than the model's context.
Score score(const Model& model, const Compute& compute, std::span<const int32_t> ids,
            const ScoreOptions& options = {});

// Calls row(i, logits [V]) for each position i of ids [T] in order: the model's prediction of what follows
// ids[0 .. i], for positions first <= i < T. The memory lasts for the call.
void for_each_logit_row(const Model& model, const Compute& compute, std::span<const int32_t> ids,
                        int64_t first, const ScoreOptions& options,
                        const std::function<void(int64_t, std::span<const float>)>& row);

// Logits f32 [T - first, V] of the positions first .. T - 1 of ids: with a prompt of n tokens and a forced
// continuation, first = n - 1 gives the predictions of the continuation (and of what follows it).
std::vector<float> logit_rows_of(const Model& model, const Compute& compute, std::span<const int32_t> ids,
                                 int64_t first, const ScoreOptions& options = {});

// In place: logits [V] -> log-softmax.
void log_softmax(std::span<float> row);

// Kullback-Leibler divergence of two rows of logits [V], in nats: sum p (log p - log q).
double kl_divergence(std::span<const float> p_logits, std::span<const float> q_logits);

// Index of the largest value; the lowest index on a tie.
int64_t argmax(std::span<const float> row);

}  // namespace onggi
