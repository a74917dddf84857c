#include "serve/http_server.h"

#include <fcntl.h>
#include <httplib.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <sys/socket.h>

#include <algorithm>
#include <atomic>
#include <cctype>
#include <cerrno>
#include <cstring>
#include <random>
#include <thread>

#include "base/log.h"
#include "base/text.h"
#include "serve/connection_pool.h"
#include "serve/sockets.h"

namespace onggi {
namespace {

// Longer paths are refused before the library's regular expressions see them.
constexpr size_t kMaxPath = 1024;
constexpr size_t kKeepAliveRequests = 10000;

std::string lower(std::string text) {
  std::transform(text.begin(), text.end(), text.begin(), [](unsigned char c) { return std::tolower(c); });
  return text;
}

bool is_request_id(const std::string& id) {
  return !id.empty() && id.size() <= 64 && std::all_of(id.begin(), id.end(), [](unsigned char c) {
    return std::isalnum(c) != 0 || c == '-' || c == '_' || c == '.';
  });
}

std::string new_request_id() {
  thread_local std::mt19937_64 random{std::random_device{}()};
  return fmt::format("{:016x}", random());
}

[[noreturn]] void fail_to_bind(const HttpServerOptions& options, int reason) {
  if (reason == EADDRINUSE)
    throw MachineError(
        text("port {} of {} ({}) is already in use; stop the program that listens there, or choose another "
             "port with {}",
             options.port, options.host, options.name, options.port_setting));
  if (reason == EACCES)
    throw MachineError(text("this user may not listen on port {} ({}); choose a port above 1023 with {}",
                            options.port, options.name, options.port_setting));
  throw MachineError(text("cannot listen on {} port {} ({}): {}; check the host and choose a port with {}",
                          options.host, options.port, options.name,
                          reason == 0 ? "unknown address" : std::strerror(reason), options.port_setting));
}

// SO_REUSEADDR without SO_REUSEPORT, which the library would set: two servers on one port must be an error.
void set_listener_options(int descriptor) {
  const int yes = 1;
  setsockopt(descriptor, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof(yes));
  fcntl(descriptor, F_SETFD, FD_CLOEXEC);  // child processes must not keep the port
}

// The newest reason that OpenSSL has for a failure.
std::string tls_reason() {
  const unsigned long code = ERR_get_error();
  const char* reason = code == 0 ? nullptr : ERR_reason_error_string(code);
  ERR_clear_error();
  return reason == nullptr ? "unknown" : reason;
}

// Sets certificate and key; the text of what is wrong, or nothing.
std::string set_up_tls(SSL_CTX& context, const HttpServerOptions& options) {
  SSL_CTX_set_min_proto_version(&context, TLS1_2_VERSION);
  ERR_clear_error();
  if (SSL_CTX_use_certificate_chain_file(&context, options.tls_certificate.c_str()) != 1)
    return text("cannot use the certificate {} ({}): give a PEM file with server.tls_certificate",
                options.tls_certificate, tls_reason());
  if (SSL_CTX_use_PrivateKey_file(&context, options.tls_key.c_str(), SSL_FILETYPE_PEM) != 1 ||
      SSL_CTX_check_private_key(&context) != 1)
    return text("cannot use the key {} ({}): give the PEM file of the certificate's key with server.tls_key",
                options.tls_key, tls_reason());
  return {};
}

std::unique_ptr<httplib::Server> make_transport(const HttpServerOptions& options) {
  if (options.tls_certificate.empty()) return std::make_unique<httplib::Server>();
  std::string problem;
  auto server = std::make_unique<httplib::SSLServer>([&](SSL_CTX& context) {
    problem = set_up_tls(context, options);
    return problem.empty();
  });
  if (!problem.empty()) throw InputError(problem);
  return server;
}

}  // namespace

const std::string& HttpRequest::header(const std::string& name) const {
  static const std::string kNone;
  const auto found = headers.find(name);
  return found == headers.end() ? kNone : found->second;
}

struct HttpServer::Impl {
  Impl(HttpServerOptions given, HttpHandlers given_handlers)
      : options(std::move(given)), handlers(std::move(given_handlers)), server(make_transport(options)) {}

  void configure();
  void bind();
  HttpRequest head_of(const httplib::Request& from) const;
  void serve(HttpRequest& request, const std::optional<HttpResponse>& refused, httplib::Response& to);
  void serve_with_body(const httplib::Request& from, httplib::Response& to,
                       const httplib::ContentReader& reader);
  std::optional<HttpResponse> admit(const HttpRequest& request) const;
  HttpResponse guarded(const std::string& path, const std::function<HttpResponse()>& work) const;
  void send(HttpResponse response, const HttpRequest& request, httplib::Response& to) const;
  HttpResponse error(const std::string& path, int status, const std::string& message) const;

  HttpServerOptions options;
  HttpHandlers handlers;
  RequestsInWork in_work;
  std::unique_ptr<httplib::Server> server;
  int port = 0;
  int listener = -1;
  std::thread acceptor;
  std::atomic<bool> accepting{false};
};

HttpRequest HttpServer::Impl::head_of(const httplib::Request& from) const {
  HttpRequest request;
  request.method = from.method;
  request.path = from.path;
  request.remote_address = from.remote_addr;
  for (const auto& [name, value] : from.params) request.query.emplace(name, value);
  for (const auto& [name, value] : from.headers) request.headers.emplace(lower(name), value);
  const std::string& id = request.header("x-request-id");
  request.id = is_request_id(id) ? id : new_request_id();
  // Looked up at the first question only: most requests are answered before anybody asks.
  request.client_gone = [port = port, address = from.remote_addr, peer = from.remote_port,
                         descriptor = -2]() mutable {
    if (descriptor == -2) descriptor = find_connection(port, address, peer);
    return peer_closed(descriptor);
  };
  return request;
}

HttpResponse HttpServer::Impl::error(const std::string& path, int status, const std::string& message) const {
  HttpResponse response;
  response.status = status;
  response.body = handlers.error_body(path, status, message);
  return response;
}

HttpResponse HttpServer::Impl::guarded(const std::string& path,
                                       const std::function<HttpResponse()>& work) const {
  try {
    return work();
  } catch (const std::exception& failure) {
    spdlog::error("{}: {}", path, failure.what());
    return error(path, 500, text("the service failed: {}", failure.what()));
  }
}

std::optional<HttpResponse> HttpServer::Impl::admit(const HttpRequest& request) const {
  std::optional<HttpResponse> refused;
  const HttpResponse failure = guarded(request.path, [&] {
    refused = handlers.admit(request);
    return HttpResponse{};
  });
  if (failure.status != 200) return failure;
  return refused;
}

void HttpServer::Impl::send(HttpResponse response, const HttpRequest& request, httplib::Response& to) const {
  to.status = response.status;
  to.set_header("X-Request-Id", request.id);
  for (const auto& [name, value] : response.headers) to.set_header(name, value);
  if (!response.stream) {
    if (!response.body.empty()) to.set_content(response.body, response.content_type);
    return;
  }
  to.set_chunked_content_provider(response.content_type, [stream = std::move(response.stream),
                                                          id = request.id](size_t, httplib::DataSink& sink) {
    // The library does not catch what a provider throws.
    try {
      bool open = true;
      stream([&](std::string_view piece) {
        open = open && sink.write(piece.data(), piece.size());
        return open;
      });
      if (open) sink.done();
      return open;
    } catch (const std::exception& failure) {
      spdlog::error("request {}: the stream failed: {}", id, failure.what());
      return false;
    }
  });
}

void HttpServer::Impl::serve(HttpRequest& request, const std::optional<HttpResponse>& refused,
                             httplib::Response& to) {
  if (refused) {
    send(*refused, request, to);
    return;
  }
  send(guarded(request.path, [&] { return handlers.handle(request); }), request, to);
}

void HttpServer::Impl::serve_with_body(const httplib::Request& from, httplib::Response& to,
                                       const httplib::ContentReader& reader) {
  HttpRequest request = head_of(from);
  // A body is read even when the request is refused: left on the connection it would be taken for the next
  // request.
  const auto refused = admit(request);
  if (from.is_multipart_form_data()) {
    to.set_header("Connection", "close");
    send(error(request.path, 415, text("send the request as JSON, not as a form")), request, to);
    return;
  }
  bool too_large = false;
  const bool complete = reader([&](const char* data, size_t size) {
    too_large = request.body.size() + size > options.max_body_bytes;
    if (too_large) return false;
    if (!refused) request.body.append(data, size);
    return true;
  });
  if (too_large) to.status = 413;
  if (!complete || too_large) {
    if (to.status < 400) to.status = 400;
    to.set_header("Connection", "close");
    to.set_header("X-Request-Id", request.id);
    return;  // the error handler writes the body
  }
  serve(request, refused, to);
}

void HttpServer::Impl::configure() {
  server->set_socket_options([this](int descriptor) {
    set_listener_options(descriptor);
    listener = descriptor;
  });
  server->set_tcp_nodelay(true);
  server->set_keep_alive_max_count(kKeepAliveRequests);
  server->set_keep_alive_timeout(options.keep_alive.count());
  server->set_read_timeout(options.read_timeout);
  server->set_write_timeout(options.write_timeout);
  server->set_payload_max_length(options.max_body_bytes);
  server->new_task_queue = [this] { return new ConnectionPool(options.max_connections, in_work); };

  server->set_pre_routing_handler([this](const httplib::Request& from, httplib::Response& to) {
    using Result = httplib::Server::HandlerResponse;
    in_work.begin();
    if (!ConnectionPool::answers_busy() && from.path.size() <= kMaxPath) return Result::Unhandled;
    to.status = from.path.size() > kMaxPath ? 414 : 503;
    if (to.status == 503) to.set_header("Retry-After", "1");
    to.set_header("Connection", "close");
    return Result::Handled;
  });
  server->set_error_handler([this](const httplib::Request& from, httplib::Response& to) {
    if (!to.body.empty() || from.method == "HEAD") return;
    std::string message = text("the request is not valid HTTP");
    if (to.status == 404) message = text("there is nothing at this address");
    if (to.status == 413)
      message =
          text("the request body is larger than {} bytes (server.max_body_bytes)", options.max_body_bytes);
    if (to.status == 414) message = text("the address is longer than {} bytes", kMaxPath);
    if (to.status == 503) message = text("server busy, please try again: too many connections");
    to.set_content(handlers.error_body(from.path, to.status, message), "application/json");
  });
  // Called after a response went out. Where it said so, the connection ends: what is left of an unread body
  // must not be taken for a request.
  server->set_logger([this](const httplib::Request& from, const httplib::Response& to) {
    in_work.end();
    if (to.get_header_value("Connection") != "close") return;
    const int descriptor = find_connection(port, from.remote_addr, from.remote_port);
    if (descriptor >= 0) ::shutdown(descriptor, SHUT_RD);
  });
  server->set_exception_handler(
      [](const httplib::Request&, httplib::Response& to, std::exception_ptr) { to.status = 500; });

  const auto without_body = [this](const httplib::Request& from, httplib::Response& to) {
    HttpRequest request = head_of(from);
    serve(request, admit(request), to);
  };
  const auto with_body = [this](const httplib::Request& from, httplib::Response& to,
                                const httplib::ContentReader& reader) { serve_with_body(from, to, reader); };
  server->Get(".*", without_body);  // and HEAD
  server->Options(".*", without_body);
  server->Post(".*", with_body);
  server->Put(".*", with_body);
  server->Patch(".*", with_body);
  server->Delete(".*", with_body);
}

void HttpServer::Impl::bind() {
  errno = 0;
  const bool any = options.port == 0;
  port = any ? server->bind_to_any_port(options.host) : options.port;
  if (any ? port <= 0 : !server->bind_to_port(options.host, port)) fail_to_bind(options, errno);
  // The library lets five connections wait to be accepted. Where more come at once, the system drops them:
  // their clients try again a second later, or see them reset.
  if (::listen(listener, SOMAXCONN) != 0) fail_to_bind(options, errno);
}

HttpServer::HttpServer(HttpServerOptions options, HttpHandlers handlers)
    : impl_(std::make_unique<Impl>(std::move(options), std::move(handlers))) {
  impl_->configure();
  impl_->bind();
}

HttpServer::~HttpServer() { stop(); }

int HttpServer::port() const { return impl_->port; }

void HttpServer::start() {
  if (impl_->acceptor.joinable()) return;
  impl_->accepting = true;
  impl_->acceptor = std::thread([this] { impl_->server->listen_after_bind(); });
  // stop() before the library's loop runs would be lost.
  while (!impl_->server->is_running()) std::this_thread::sleep_for(std::chrono::milliseconds(1));
}

// The library's own stop() would also break off streams that are about to begin. A listening socket that is
// shut down ends its loop all the same, and the loop closes it.
void HttpServer::stop_accepting() {
  if (impl_->accepting.exchange(false)) ::shutdown(impl_->listener, SHUT_RDWR);
}

void HttpServer::stop() {
  stop_accepting();
  if (!impl_->acceptor.joinable()) return;
  // Not before the last byte of an answer: a connection whose reading side has ended counts as gone.
  impl_->in_work.wait(impl_->options.write_timeout);
  wake_idle_connections(impl_->port);
  impl_->acceptor.join();
}

}  // namespace onggi
