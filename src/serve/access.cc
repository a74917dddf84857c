#include "serve/access.h"

#include <arpa/inet.h>
#include <openssl/crypto.h>

#include <algorithm>
#include <array>
#include <cctype>

#include "base/file.h"

namespace onggi {
namespace {

std::string lower(std::string_view text) {
  std::string result(text);
  std::transform(result.begin(), result.end(), result.begin(),
                 [](unsigned char c) { return std::tolower(c); });
  return result;
}

std::string_view trim(std::string_view text) {
  while (!text.empty() && (text.front() == ' ' || text.front() == '\t')) text.remove_prefix(1);
  while (!text.empty() && (text.back() == ' ' || text.back() == '\t')) text.remove_suffix(1);
  return text;
}

// "example.org:8000" -> "example.org", "[::1]:8000" -> "::1".
std::string host_without_port(std::string_view header) {
  header = trim(header);
  if (!header.empty() && header.front() == '[') {
    const size_t end = header.find(']');
    return std::string(header.substr(1, end == std::string_view::npos ? end : end - 1));
  }
  if (std::count(header.begin(), header.end(), ':') > 1) return std::string(header);  // a bare IPv6 address
  return lower(header.substr(0, header.find(':')));
}

bool is_address(const std::string& host) {
  std::array<unsigned char, 16> bytes{};
  return inet_pton(AF_INET, host.c_str(), bytes.data()) == 1 ||
         inet_pton(AF_INET6, host.c_str(), bytes.data()) == 1;
}

}  // namespace

std::string request_key(std::string_view authorization, std::string_view x_api_key) {
  authorization = trim(authorization);
  constexpr std::string_view kScheme = "bearer ";
  if (authorization.size() > kScheme.size() && lower(authorization.substr(0, kScheme.size())) == kScheme)
    return std::string(trim(authorization.substr(kScheme.size())));
  return std::string(trim(x_api_key));
}

bool key_is_valid(const std::vector<std::string>& keys, std::string_view key) {
  if (keys.empty()) return true;
  // Digests have one length, so that neither the length nor the place of a difference shows in the time.
  const std::string given = sha256_hex(key);
  bool valid = false;
  for (const std::string& known : keys) {
    const std::string expected = sha256_hex(known);
    if (CRYPTO_memcmp(given.data(), expected.data(), expected.size()) == 0) valid = true;
  }
  return valid && !key.empty();
}

bool host_is_local(std::string_view host_header, std::string_view machine_name) {
  const std::string host = host_without_port(host_header);
  if (host.empty() || host == "localhost" || is_address(host)) return true;
  if (!machine_name.empty() && host == lower(machine_name)) return true;
  return host.ends_with(".localhost") || host.ends_with(".local") || host.ends_with(".internal");
}

bool is_loopback(std::string_view host) {
  return host == "localhost" || host == "::1" || host == "[::1]" ||
         (host.starts_with("127.") && is_address(std::string(host)));
}

bool origin_is_allowed(std::string_view origin, std::string_view host_header,
                       const std::vector<std::string>& allowed) {
  if (origin.empty()) return true;
  for (const std::string& entry : allowed)
    if (entry == "*" || entry == origin) return true;
  const size_t colon = origin.find("://");
  if (colon == std::string_view::npos) return false;  // "null" and the like
  const std::string scheme = lower(origin.substr(0, colon));
  for (const char* local : {"app", "file", "tauri", "vscode-webview", "vscode-file"})
    if (scheme == local) return true;
  if (scheme != "http" && scheme != "https") return false;
  const std::string_view authority = origin.substr(colon + 3);
  if (!host_header.empty() && authority == host_header) return true;  // our own pages
  const std::string host = host_without_port(authority);
  return host == "localhost" || host == "0.0.0.0" || is_loopback(host);
}

}  // namespace onggi
