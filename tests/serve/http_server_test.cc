// Transport against real sockets: the library's client, and raw bytes where a client would not send them.
#include "serve/http_server.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <httplib.h>

#include <atomic>
#include <thread>

#include "base/clock.h"
#include "tests/serve/raw_connection.h"

namespace onggi {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

HttpHandlers echo_handlers() {
  HttpHandlers handlers;
  handlers.admit = [](const HttpRequest& request) -> std::optional<HttpResponse> {
    if (request.header("x-refuse").empty()) return std::nullopt;
    HttpResponse response;
    response.status = 401;
    response.body = "refused";
    return response;
  };
  handlers.handle = [](const HttpRequest& request) {
    if (request.path == "/throw") throw std::runtime_error("on purpose");
    HttpResponse response;
    response.content_type = "text/plain";
    response.body = request.method + " " + request.path + " " + request.body;
    return response;
  };
  handlers.error_body = [](const std::string& path, int status, const std::string& message) {
    return path + " " + std::to_string(status) + " " + message;
  };
  return handlers;
}

HttpServerOptions test_options() {
  HttpServerOptions options;
  options.name = "the test's API";
  options.port_setting = "--port";
  options.max_body_bytes = 1000;
  return options;
}

TEST(HttpServer, AnswersAndGivesRequestsIds) {
  HttpServer server(test_options(), echo_handlers());
  server.start();
  httplib::Client client("127.0.0.1", server.port());
  const auto answer = client.Post("/a", "body", "application/json");
  ASSERT_TRUE(answer);
  EXPECT_EQ(answer->body, "POST /a body");
  EXPECT_EQ(answer->get_header_value("X-Request-Id").size(), 16u);
  const auto named = client.Get("/a", {{"X-Request-Id", "my-id_1.2"}});
  EXPECT_EQ(named->get_header_value("X-Request-Id"), "my-id_1.2");
  const auto hostile = client.Get("/a", {{"X-Request-Id", "a b"}});
  EXPECT_EQ(hostile->get_header_value("X-Request-Id").size(), 16u);
  EXPECT_EQ(client.Delete("/a", "with a body", "application/json")->body, "DELETE /a with a body");
}

// curl -d sends JSON under this type, and the library would cut it at 8 kB.
TEST(HttpServer, TakesLongBodiesOfAnyType) {
  HttpServerOptions options = test_options();
  options.max_body_bytes = 100000;
  HttpServer server(options, echo_handlers());
  server.start();
  httplib::Client client("127.0.0.1", server.port());
  const std::string body(50000, 'x');
  const auto answer = client.Post("/a", body, "application/x-www-form-urlencoded");
  ASSERT_TRUE(answer);
  EXPECT_EQ(answer->body.size(), std::string("POST /a ").size() + body.size());
  httplib::MultipartFormDataItems form = {{"a", "b", "", ""}};
  EXPECT_EQ(client.Post("/a", form)->status, 415);
}

TEST(HttpServer, FailuresAreAnswersAndTheServerGoesOn) {
  HttpServer server(test_options(), echo_handlers());
  server.start();
  httplib::Client client("127.0.0.1", server.port());
  const auto thrown = client.Get("/throw");
  ASSERT_TRUE(thrown);
  EXPECT_EQ(thrown->status, 500);
  EXPECT_THAT(thrown->body, HasSubstr("on purpose"));
  const auto large = client.Post("/a", std::string(1001, 'x'), "application/json");
  ASSERT_TRUE(large);
  EXPECT_EQ(large->status, 413);
  EXPECT_THAT(large->body, StartsWith("/a 413 the request body is larger than 1000 bytes"));
  const auto long_path = client.Get("/" + std::string(2000, 'a'));
  ASSERT_TRUE(long_path);
  EXPECT_EQ(long_path->status, 414);
  EXPECT_EQ(client.Get("/a")->status, 200);
}

TEST(HttpServer, RefusedBodiesAreNotTakenForRequests) {
  HttpServer server(test_options(), echo_handlers());
  server.start();
  RawConnection connection(server.port());
  const std::string body = "GET /smuggled HTTP/1.1\r\n\r\n";
  connection.send("POST /a HTTP/1.1\r\nX-Refuse: 1\r\nContent-Length: " + std::to_string(body.size()) +
                  "\r\n\r\n");
  connection.send(body);
  EXPECT_THAT(connection.read("refused"), StartsWith("HTTP/1.1 401"));
  connection.send("GET /next HTTP/1.1\r\n\r\n");
  const std::string next = connection.read("/next");
  EXPECT_THAT(next, StartsWith("HTTP/1.1 200"));
  EXPECT_THAT(next, HasSubstr("GET /next"));
}

TEST(HttpServer, BrokenRequestsAreAnswered) {
  HttpServer server(test_options(), echo_handlers());
  server.start();
  const std::vector<std::string> hostile = {
      "nonsense\r\n\r\n",
      "GET\r\n\r\n",
      "GET /a HTTP/9.9\r\n\r\n",
      "POST /a HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
      "POST /a HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n\r\n",
      "GET /a HTTP/1.1\r\nRange: bytes=" + std::string(6000, '9') + "-\r\n\r\n",
      "GET /a HTTP/1.1\r\n" + std::string(20000, 'h') + ": x\r\n\r\n",
      "GET /%ZZ%00%0a HTTP/1.1\r\n\r\n",
      std::string("\0\0\0\0\xff\xfe\r\n\r\n", 10),
  };
  for (const std::string& bytes : hostile) {
    RawConnection connection(server.port());
    connection.send(bytes);
    connection.end();
  }
  // A body without end counts up to the limit.
  RawConnection endless(server.port());
  endless.send("POST /a HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n");
  for (int i = 0; i < 20; ++i) endless.send("64\r\n" + std::string(100, 'x') + "\r\n");
  EXPECT_THAT(endless.read("\r\n\r\n"), StartsWith("HTTP/1.1 413"));
  httplib::Client client("127.0.0.1", server.port());
  EXPECT_EQ(client.Get("/a")->status, 200);
}

TEST(HttpServer, ATakenPortIsAnErrorThatSaysWhatToDo) {
  HttpServer first(test_options(), echo_handlers());
  first.start();
  HttpServerOptions options = test_options();
  options.port = first.port();
  try {
    HttpServer second(options, echo_handlers());
    FAIL() << "two servers on one port";
  } catch (const MachineError& error) {
    EXPECT_THAT(error.what(), HasSubstr(std::to_string(first.port())));
    EXPECT_THAT(error.what(), HasSubstr("already in use"));
    EXPECT_THAT(error.what(), HasSubstr("--port"));
  }
  options.host = "no.such.host.invalid";
  EXPECT_THROW(HttpServer(options, echo_handlers()), MachineError);
}

// A stream that never ends by itself.
HttpHandlers endless_stream(std::atomic<int>& ended) {
  HttpHandlers handlers = echo_handlers();
  handlers.handle = [&ended](const HttpRequest& request) {
    HttpResponse response;
    response.content_type = "text/event-stream";
    response.stream = [&ended, gone = request.client_gone](const StreamWriter& write) {
      for (int i = 0; i < 1000 && !gone(); ++i) {
        if (i == 0 && !write("data: first\n\n")) break;
        std::this_thread::sleep_for(std::chrono::milliseconds(10));
      }
      ++ended;
    };
    return response;
  };
  return handlers;
}

TEST(HttpServer, NoticesAClientThatGoesAwayWhileNothingIsWritten) {
  std::atomic<int> ended{0};
  HttpServer server(test_options(), endless_stream(ended));
  server.start();
  {
    RawConnection connection(server.port());
    connection.send("GET /s HTTP/1.1\r\nAccept-Encoding: gzip\r\n\r\n");
    const std::string got = connection.read("data: first\n\n");
    EXPECT_THAT(got, HasSubstr("data: first\n\n"));  // not compressed, not held back
    EXPECT_EQ(ended, 0);
  }
  const Stopwatch watch;
  while (ended == 0 && watch.seconds() < 5) std::this_thread::sleep_for(std::chrono::milliseconds(5));
  EXPECT_EQ(ended, 1);
  EXPECT_LT(watch.seconds(), 1);
}

TEST(HttpServer, StopsAtOnceThoughConnectionsAreIdle) {
  auto server = std::make_unique<HttpServer>(test_options(), echo_handlers());
  server->start();
  RawConnection idle(server->port());
  idle.send("GET /a HTTP/1.1\r\n\r\n");
  idle.read("GET /a");
  const int port = server->port();
  const Stopwatch watch;
  server->stop();
  EXPECT_LT(watch.seconds(), 2);  // not the 15 seconds of the keep-alive
  EXPECT_FALSE(RawConnection(port).connected());
}

// More than the library would let wait: the others' connections would be dropped and tried again after a
// second.
TEST(HttpServer, ManyMayComeAtOnce) {
  HttpServer server(test_options(), echo_handlers());
  std::vector<std::unique_ptr<RawConnection>> users;
  const Stopwatch watch;
  for (int i = 0; i < 100 && watch.seconds() < 10; ++i) {  // nobody is accepted yet
    users.push_back(std::make_unique<RawConnection>(server.port()));
    ASSERT_TRUE(users.back()->connected()) << i;
    users.back()->send("GET /a HTTP/1.1\r\n\r\n");
  }
  ASSERT_EQ(users.size(), 100U);
  server.start();
  for (auto& user : users) EXPECT_THAT(user->read("GET /a"), StartsWith("HTTP/1.1 200"));
}

TEST(HttpServer, AnswersBusyWhenAllThreadsAreTaken) {
  std::atomic<int> ended{0};
  HttpServerOptions options = test_options();
  options.max_connections = 2;
  HttpServer server(options, endless_stream(ended));
  server.start();
  RawConnection first(server.port()), second(server.port());
  for (RawConnection* connection : {&first, &second}) {
    connection->send("GET /s HTTP/1.1\r\n\r\n");
    connection->read("data: first");
  }
  RawConnection third(server.port());
  third.send("GET /s HTTP/1.1\r\n\r\n");
  const std::string got = third.read("too many connections");
  EXPECT_THAT(got, StartsWith("HTTP/1.1 503"));
  EXPECT_THAT(got, HasSubstr("Retry-After: 1"));
  first.end();
  second.end();
}

}  // namespace
}  // namespace onggi
