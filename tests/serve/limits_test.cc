// What keeps a service safe beside its keys: HTTPS, and quotas.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <thread>

#include "base/clock.h"
#include "serve/loadtest.h"
#include "tests/serve/certificate.h"
#include "tests/serve/mini_service.h"

namespace onggi {
namespace {

using testing::HasSubstr;

TEST(Tls, ServesBothPortsWithTheCertificate) {
  const TemporaryFolder folder;
  const TestCertificate files(folder.path());
  ServerConfig config = free_ports();
  config.tls_certificate = files.certificate;
  config.tls_key = files.key;
  const MiniService mini(config);
  EXPECT_THAT(mini.service.url(), testing::StartsWith("https://127.0.0.1:"));
  for (const std::string& url : {mini.service.url(), mini.service.ollama_url()}) {
    httplib::Client trusting(url);
    trusting.set_ca_cert_path(files.certificate);
    const auto version = trusting.Get("/api/version");
    ASSERT_TRUE(version) << httplib::to_string(version.error());
    EXPECT_EQ(version->status, 200);
    httplib::Client strict(url);
    EXPECT_EQ(strict.Get("/api/version").error(), httplib::Error::SSLServerVerification);
  }
  // A client without TLS gets no answer.
  httplib::Client plain("127.0.0.1", mini.service.port());
  EXPECT_FALSE(plain.Get("/health"));
  LoadTestOptions load;
  load.url = mini.service.url();
  load.users = 3;
  load.requests_per_user = 2;
  load.max_new_tokens = 6;
  const LoadTestResult result = run_load_test(load);
  EXPECT_EQ(result.errors, 0) << result.first_error;
  EXPECT_EQ(result.requests, 6);
}

TEST(Tls, AClientThatGoesAwayFreesItsPlace) {
  const TemporaryFolder folder;
  const TestCertificate files(folder.path());
  ServerConfig config = free_ports();
  config.tls_certificate = files.certificate;
  config.tls_key = files.key;
  MiniService mini(config);
  const auto client = make_client({mini.service.url(), ""});
  // Tokens that end an answer are forbidden, so it ends with its client only.
  const Json endless = {{"model", "mini"},
                        {"messages", Json::parse(R"([{"role": "user", "content": "a"}])")},
                        {"max_tokens", 1900},
                        {"logit_bias", {{"8100", -100}, {"8102", -100}}}};
  const ChatReply reply =
      ask_service(*client, {mini.service.url(), ""}, endless, [](const auto&, const auto&) { return false; });
  EXPECT_EQ(reply.finish_reason, "cancelled");
  const Stopwatch watch;
  while (mini.service.stats().active > 0 && watch.seconds() < 10)
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  EXPECT_EQ(mini.service.stats().active, 0);
  EXPECT_LT(mini.service.stats().generated_tokens, 1000u);
  mini.service.stop(std::chrono::seconds(5));
}

TEST(Tls, WhatCannotBeUsedIsNamed) {
  const TemporaryFolder folder;
  const TestCertificate files(folder.path());
  ServerConfig config = free_ports();
  config.tls_certificate = "missing.pem";
  config.tls_key = files.key;
  EXPECT_THAT(message_of<InputError>([&] { Service service(config); }), HasSubstr("missing.pem"));
  config.tls_certificate = files.certificate;
  config.tls_key = files.certificate;
  EXPECT_THAT(message_of<InputError>([&] { Service service(config); }), HasSubstr("server.tls_key"));
  fs::create_directory(folder / "other");
  config.tls_key = TestCertificate(folder / "other").key;  // of another certificate
  EXPECT_THAT(message_of<InputError>([&] { Service service(config); }), HasSubstr("cannot use the key"));
}

const Json kShort = {{"message", "hi"}, {"max_tokens", 2}, {"temperature", 0}};

httplib::Headers bearer(const std::string& key) { return {{"Authorization", "Bearer " + key}}; }

TEST(Quotas, RequestsPerMinuteAndKey) {
  ServerConfig config = free_ports();
  config.api_keys = {"one", "two"};
  config.requests_per_minute = 2;
  const MiniService mini(config);
  auto client = mini.client();
  const auto ask = [&](const std::string& key, const std::string& path, const Json& body) {
    return client.Post(path, bearer(key), dump(body), "application/json");
  };
  EXPECT_EQ(ask("one", "/chat", kShort)->status, 200);
  // One that is wrong counts too: it took the service's time.
  EXPECT_EQ(ask("one", "/v1/chat/completions", {})->status, 400);
  for (const char* path : {"/chat", "/v1/chat/completions", "/v1/messages", "/api/generate"}) {
    const auto refused = ask("one", path, kShort);
    EXPECT_EQ(refused->status, 429) << path;
    const int wait = std::stoi(refused->get_header_value("Retry-After"));
    EXPECT_GT(wait, 30) << path;
    EXPECT_LE(wait, 60) << path;
    EXPECT_THAT(refused->body, HasSubstr("2 requests a minute")) << path;
  }
  EXPECT_THAT(ask("one", "/v1/messages", kShort)->body, HasSubstr("\"rate_limit_error\""));
  EXPECT_EQ(ask("two", "/chat", kShort)->status, 200);
  // What costs nothing is not counted.
  for (int i = 0; i < 5; ++i) EXPECT_EQ(client.Get("/v1/models", bearer("one"))->status, 200);
  EXPECT_EQ(client.Get("/health")->status, 200);
  EXPECT_THAT(client.Get("/metrics", bearer("two"))->body,
              HasSubstr("onggi_requests_total{api=\"chat\",status=\"429\"}"));
}

TEST(Quotas, TokensPerDay) {
  ServerConfig config = free_ports();
  config.api_keys = {"one", "two"};
  config.tokens_per_day = 12;
  const MiniService mini(config);
  auto client = mini.client();
  const auto ask = [&](const std::string& key) {
    return client.Post("/chat", bearer(key), dump(kShort), "application/json");
  };
  const auto first = ask("one");
  ASSERT_EQ(first->status, 200);
  const int64_t used = Json::parse(first->body)["usage"]["total_tokens"];
  ASSERT_GE(used, 6);  // the prompt of a chat and an answer
  int answered = 1;
  while (ask("one")->status == 200) ASSERT_LT(++answered, 20);
  EXPECT_EQ(answered, (12 + used - 1) / used);
  const auto refused = ask("one");
  EXPECT_EQ(refused->status, 429);
  EXPECT_LE(std::stoi(refused->get_header_value("Retry-After")), 86400);
  EXPECT_THAT(refused->body, HasSubstr("12 tokens a day"));
  EXPECT_EQ(ask("two")->status, 200);
}

TEST(Quotas, WithoutKeysTheAddressCounts) {
  ServerConfig config = free_ports();
  config.requests_per_minute = 1;
  const MiniService mini(config);
  EXPECT_EQ(mini.client().Post("/chat", dump(kShort), "application/json")->status, 200);
  EXPECT_EQ(mini.client().Post("/chat", dump(kShort), "application/json")->status, 429);
}

}  // namespace
}  // namespace onggi
