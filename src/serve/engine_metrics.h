// The engine's and the process's own counts as Prometheus families, read at each scrape.
#pragma once

#include <prometheus/metric_family.h>

#include <string>
#include <vector>

#include "infer/engine.h"

namespace onggi {

void add_engine_metrics(const EngineStats& stats, const std::string& model, const std::string& quantization,
                        std::vector<prometheus::MetricFamily>& families);
// started: Unix seconds.
void add_process_metrics(double started, std::vector<prometheus::MetricFamily>& families);

}  // namespace onggi
