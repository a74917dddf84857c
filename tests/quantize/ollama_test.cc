#include "quantize/ollama.h"

#include <gtest/gtest.h>
#include <httplib.h>
#include <stdlib.h>

#include <atomic>
#include <nlohmann/json.hpp>
#include <thread>

#include "base/error.h"
#include "tests/scratch.h"

namespace onggi {
namespace {

using nlohmann::json;

// Speaks the part of Ollama's protocol that registration uses.
class FakeOllama {
 public:
  FakeOllama() {
    server_.Get("/api/version", [this](const httplib::Request&, httplib::Response& response) {
      response.set_content(version_body, "application/json");
    });
    // httplib answers HEAD with the handler of GET.
    server_.Get(R"(/api/blobs/(sha256:[0-9a-f]{64}))",
                [this](const httplib::Request& request, httplib::Response& response) {
                  response.status = blobs.contains(request.matches[1]) ? 200 : 404;
                });
    server_.Post(R"(/api/blobs/(sha256:[0-9a-f]{64}))",
                 [this](const httplib::Request& request, httplib::Response& response) {
                   ++uploads;
                   if (refuse_upload) {
                     response.status = 507;
                     response.set_content(R"({"error":"no space left on device"})", "application/json");
                     return;
                   }
                   if ("sha256:" + sha256_hex(request.body) != request.matches[1].str()) {
                     response.status = 400;
                     return;
                   }
                   blobs[request.matches[1]] = request.body;
                   response.status = 201;
                 });
    server_.Post("/api/create", [this](const httplib::Request& request, httplib::Response& response) {
      create_body = json::parse(request.body);
      response.set_chunked_content_provider("application/x-ndjson", [this](size_t, httplib::DataSink& sink) {
        for (const std::string& piece : create_pieces) sink.write(piece.data(), piece.size());
        sink.done();
        return true;
      });
    });
    server_.Post("/api/show", [this](const httplib::Request& request, httplib::Response& response) {
      shown = json::parse(request.body).at("model");
      response.set_content(R"({"capabilities":["completion","tools"],"details":{"format":"gguf"}})",
                           "application/json");
    });
    port_ = server_.bind_to_any_port("127.0.0.1");
    thread_ = std::thread([this] { server_.listen_after_bind(); });
    while (!server_.is_running()) std::this_thread::yield();
  }
  ~FakeOllama() {
    server_.stop();
    thread_.join();
  }

  std::string host() const { return "127.0.0.1:" + std::to_string(port_); }

  std::string version_body = R"({"version":"0.12.3"})";
  // The stream of /api/create; lines need not end where pieces do.
  std::vector<std::string> create_pieces = {"{\"status\":\"parsing GGUF\"}\n{\"sta",
                                            "tus\":\"writing manifest\"}\n", "{\"status\":\"success\"}\n"};
  bool refuse_upload = false;
  std::map<std::string, std::string> blobs;
  std::atomic<int> uploads = 0;
  json create_body;
  std::string shown;

 private:
  httplib::Server server_;
  int port_ = 0;
  std::thread thread_;
};

class Ollama : public testing::Test {
 protected:
  Ollama() {
    std::string bytes = "GGUF";
    for (int i = 0; i < 300000; ++i) bytes.push_back(static_cast<char>(i * 7));
    write_file(folder_.path() / "model.gguf", bytes);
    options_.model = "onggi-mini-finetune";
    options_.gguf = folder_.path() / "model.gguf";
    options_.parameters.stop = {"<|im_end|>"};
    options_.parameters.system = "한국어로 답하세요.";
    options_.progress = [this](const std::string& status, uint64_t done, uint64_t) {
      statuses_.push_back(status);
      sent_ = std::max(sent_, done);
    };
  }

  TemporaryFolder folder_;
  OllamaOptions options_;
  std::vector<std::string> statuses_;
  uint64_t sent_ = 0;
};

TEST_F(Ollama, UploadsCreatesAndShows) {
  FakeOllama server;
  options_.host = server.host();
  const OllamaResult result = register_with_ollama(options_);
  EXPECT_TRUE(result.registered) << result.reason;
  EXPECT_EQ(result.how, OllamaWay::kApi);
  EXPECT_EQ(result.version, "0.12.3");
  EXPECT_EQ(result.capabilities, (std::vector<std::string>{"completion", "tools"}));
  EXPECT_EQ(result.digest, "sha256:" + sha256_hex_of_file(options_.gguf));
  EXPECT_EQ(server.blobs.at(result.digest), read_file(options_.gguf));
  EXPECT_EQ(sent_, fs::file_size(options_.gguf));
  EXPECT_EQ(server.create_body.at("model"), "onggi-mini-finetune");
  EXPECT_EQ(server.create_body.at("files").at("model.gguf"), result.digest);
  EXPECT_EQ(server.create_body.at("parameters").at("top_k"), 20);
  EXPECT_EQ(server.create_body.at("parameters").at("stop").at(0), "<|im_end|>");
  EXPECT_EQ(server.create_body.at("system"), "한국어로 답하세요.");
  EXPECT_FALSE(server.create_body.contains("template"));
  EXPECT_EQ(server.shown, "onggi-mini-finetune");
  EXPECT_EQ(statuses_.back(), "success");
  EXPECT_EQ(statuses_[statuses_.size() - 2], "writing manifest");
  // The blob is there now.
  EXPECT_TRUE(register_with_ollama(options_).registered);
  EXPECT_EQ(server.uploads, 1);
}

TEST_F(Ollama, ReportsErrorsInsideTheStream) {
  FakeOllama server;
  server.create_pieces = {"{\"status\":\"parsing GGUF\"}\n", "{\"error\":\"unsupported architecture\"}\n"};
  options_.host = server.host();
  const OllamaResult result = register_with_ollama(options_);
  EXPECT_FALSE(result.registered);
  EXPECT_NE(result.reason.find("unsupported architecture"), std::string::npos) << result.reason;
  server.create_pieces = {"{\"status\":\"parsing GGUF\"}\n"};  // ends too early
  const OllamaResult cut = register_with_ollama(options_);
  EXPECT_FALSE(cut.registered);
  EXPECT_NE(cut.reason.find("parsing GGUF"), std::string::npos) << cut.reason;
}

TEST_F(Ollama, ReportsARefusedUpload) {
  FakeOllama server;
  server.refuse_upload = true;
  options_.host = server.host();
  const OllamaResult result = register_with_ollama(options_);
  EXPECT_FALSE(result.registered);
  EXPECT_NE(result.reason.find("no space left on device"), std::string::npos) << result.reason;
  EXPECT_TRUE(server.shown.empty());
}

TEST_F(Ollama, SaysSoWhereNobodyAnswers) {
  setenv("PATH", folder_.path().c_str(), 1);  // no command either
  options_.host = "127.0.0.1:1";
  options_.modelfile = folder_.path() / "Modelfile";
  const OllamaResult result = register_with_ollama(options_);
  EXPECT_FALSE(result.registered);
  EXPECT_EQ(result.how, OllamaWay::kNone);
  EXPECT_NE(result.reason.find("http://127.0.0.1:1"), std::string::npos) << result.reason;
}

TEST_F(Ollama, SaysSoWhereSomebodyElseAnswers) {
  FakeOllama server;
  server.version_body = "<html>router</html>";
  options_.host = server.host();
  const OllamaResult result = register_with_ollama(options_);
  EXPECT_FALSE(result.registered);
  EXPECT_NE(result.reason.find("no Ollama"), std::string::npos) << result.reason;
}

TEST_F(Ollama, TakesTheCommandWhereTheApiIsSilent) {
  const fs::path program = folder_.path() / "ollama";
  write_file(program, "#!/bin/sh\necho \"$OLLAMA_HOST $*\" > " + (folder_.path() / "called").string() + "\n");
  fs::permissions(program, fs::perms::owner_all);
  const std::string path = folder_.path().string() + ":/usr/bin:/bin";
  setenv("PATH", path.c_str(), 1);
  options_.host = "127.0.0.1:1";
  options_.modelfile = folder_.path() / "Modelfile";
  const OllamaResult result = register_with_ollama(options_);
  EXPECT_TRUE(result.registered) << result.reason;
  EXPECT_EQ(result.how, OllamaWay::kCommand);
  EXPECT_EQ(read_file(folder_.path() / "called"),
            "http://127.0.0.1:1 create onggi-mini-finetune -f " + options_.modelfile.string() + "\n");
}

TEST_F(Ollama, StopsWhenProgressThrows) {
  FakeOllama server;
  options_.host = server.host();
  options_.progress = [](const std::string&, uint64_t done, uint64_t) {
    if (done > 0) throw Interrupted("stopped");
  };
  EXPECT_THROW(register_with_ollama(options_), Interrupted);
}

TEST(OllamaUrl, ReadsTheFormsOfOllamaHost) {
  EXPECT_EQ(ollama_url(""), "http://127.0.0.1:11434");
  EXPECT_EQ(ollama_url("0.0.0.0"), "http://127.0.0.1:11434");
  EXPECT_EQ(ollama_url("0.0.0.0:8080"), "http://127.0.0.1:8080");
  EXPECT_EQ(ollama_url(":8080"), "http://127.0.0.1:8080");
  EXPECT_EQ(ollama_url("gpu.lan"), "http://gpu.lan:11434");
  EXPECT_EQ(ollama_url("http://gpu.lan"), "http://gpu.lan:80");
  EXPECT_EQ(ollama_url("https://gpu.lan/ollama/"), "https://gpu.lan:443/ollama");
  EXPECT_EQ(ollama_url("[::1]:11435"), "http://[::1]:11435");
  EXPECT_EQ(ollama_url("::1"), "http://[::1]:11434");
  EXPECT_EQ(ollama_url("[::]"), "http://[::1]:11434");
  EXPECT_THROW(ollama_url("ftp://x"), UsageError);
  EXPECT_THROW(ollama_url("host:99999"), UsageError);
  EXPECT_THROW(ollama_url("host:x"), UsageError);
}

}  // namespace
}  // namespace onggi
