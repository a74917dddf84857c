// A service in this process with the embedded model, over real HTTP, and what tests ask it with.
#pragma once

#include <gtest/gtest.h>
#include <httplib.h>

#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <vector>

#include "model/compute_device.h"
#include "serve/chat_client.h"
#include "serve/memory_plan.h"
#include "serve/service.h"

namespace onggi {

inline constexpr uint64_t kMemory = uint64_t{8} << 30;

inline ServerConfig free_ports() {
  ServerConfig config;
  config.port = 0;
  config.ollama_port = 0;
  config.max_batch = 4;
  config.max_queue = 16;
  config.max_new_tokens = 16;
  return config;
}

// A service with the model of the repository, on a device.
struct MiniService {
  explicit MiniService(const ServerConfig& config = free_ports(), const Device& on = {})
      : device(on), service(config) {
    LoadedModel model = load_chat_model("models/onggi-mini", {}, threads, device.placement());
    const EngineOptions options = plan_engine(config, *model.model, device, kMemory);
    service.start();
    auto runner = make_runner(model.model, device, threads, options.precision);
    service.load(std::move(model), std::move(runner), options, {{"onggi-mini", "mini"}, ""});
  }
  httplib::Client client() const { return client_to(service.url()); }
  httplib::Client ollama() const { return client_to(service.ollama_url()); }
  static httplib::Client client_to(const std::string& url) {
    httplib::Client result(url);
    result.set_read_timeout(60, 0);
    return result;
  }

  ThreadPool threads{2};
  ComputeDevice device;
  Service service;
};

inline Json post(httplib::Client client, const std::string& path, const Json& body, int status = 200) {
  const auto response = client.Post(path, dump(body), "application/json");
  if (!response) {
    ADD_FAILURE() << path << ": " << httplib::to_string(response.error());
    return {};
  }
  EXPECT_EQ(response->status, status) << path << ": " << response->body;
  return Json::parse(response->body, nullptr, false);
}

inline std::string stream(httplib::Client client, const std::string& path, const Json& body,
                          const std::string& type) {
  const auto response = client.Post(path, dump(body), "application/json");
  if (!response) {
    ADD_FAILURE() << path << ": " << httplib::to_string(response.error());
    return {};
  }
  EXPECT_EQ(response->status, 200) << response->body;
  EXPECT_EQ(response->get_header_value("Content-Type"), type);
  return response->body;
}

// The objects of a stream of lines, none of them blank.
inline std::vector<Json> lines_of(const std::string& body) {
  std::vector<Json> lines;
  std::istringstream input(body);
  for (std::string line; std::getline(input, line);) {
    EXPECT_FALSE(line.empty()) << "a blank line";
    lines.push_back(Json::parse(line, nullptr, false));
    EXPECT_FALSE(lines.back().is_discarded()) << line;
  }
  EXPECT_TRUE(body.ends_with("\n"));
  return lines;
}

// The objects of server-sent events; [DONE] is left out. Anthropic's have a line with the event's name
// before.
inline std::vector<Json> events_of(const std::string& body) {
  std::vector<Json> events;
  std::istringstream input(body);
  for (std::string line; std::getline(input, line);) {
    if (!line.starts_with("data: ") || line == "data: [DONE]") continue;
    events.push_back(Json::parse(line.substr(6), nullptr, false));
    EXPECT_FALSE(events.back().is_discarded()) << line;
  }
  return events;
}

}  // namespace onggi
