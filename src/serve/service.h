// The service: a model behind HTTP, on two ports. Usable in-process: the deploy stage, tests.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "config/config.h"
#include "infer/chat_model.h"
#include "infer/engine.h"
#include "serve/served_model.h"

namespace onggi {

class Service {
 public:
  // Binds server.port and server.ollama_port (0: any free one). Throws MachineError naming a port that cannot
  // be used and what to do.
  explicit Service(const ServerConfig& server);
  Service(const Service&) = delete;
  Service& operator=(const Service&) = delete;
  // stop() with no grace.
  ~Service();

  // Answers from now on; until load() is done, /health says 503 "loading" and nothing can be generated.
  void start();

  // Takes the model into service. runner: make_runner() over the same model; what it uses (threads) must
  // outlive this. Throws as the Engine's constructor does.
  void load(LoadedModel model, std::unique_ptr<StepRunner> runner, const EngineOptions& options,
            const ModelLabels& labels);

  int port() const;
  int ollama_port() const;
  // "http://127.0.0.1:8000": where clients on this machine reach the two ports, whatever host it listens on.
  std::string url() const;
  std::string ollama_url() const;
  // What clients are told; the model is loaded.
  const ServedModel& model() const;
  EngineStats stats() const;

  // No new connections; answers in work get `grace` to end, then they are cancelled. Returns when all threads
  // are done. More than once.
  void stop(std::chrono::seconds grace);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace onggi
