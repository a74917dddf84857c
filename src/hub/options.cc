// The hub's environment variables, as huggingface_hub reads them.
#include <algorithm>
#include <cctype>
#include <cstdlib>

#include "base/error.h"
#include "base/file.h"
#include "base/text.h"
#include "hub/http.h"
#include "hub/hub.h"

namespace onggi {

namespace {

std::string environment(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

std::string trimmed(std::string text) {
  const auto is_space = [](unsigned char c) { return std::isspace(c) != 0; };
  text.erase(text.begin(), std::find_if_not(text.begin(), text.end(), is_space));
  text.erase(std::find_if_not(text.rbegin(), text.rend(), is_space).base(), text.end());
  return text;
}

bool is_true(std::string value) {
  std::transform(value.begin(), value.end(), value.begin(), [](unsigned char c) { return std::toupper(c); });
  return value == "1" || value == "ON" || value == "YES" || value == "TRUE";
}

// "~/x" -> "/home/me/x".
fs::path expanded(const std::string& path) {
  if (path == "~" || path.starts_with("~/"))
    return fs::path(environment("HOME")) / path.substr(path.size() > 1 ? 2 : 1);
  return path;
}

fs::path hub_home() {
  if (const std::string home = environment("HF_HOME"); !home.empty()) return expanded(home);
  if (const std::string cache = environment("XDG_CACHE_HOME"); !cache.empty())
    return expanded(cache) / "huggingface";
  return expanded("~/.cache/huggingface");
}

fs::path default_cache_dir() {
  for (const char* name : {"HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"}) {
    if (const std::string cache = environment(name); !cache.empty()) return expanded(cache);
  }
  return hub_home() / "hub";
}

std::string find_token() {
  for (const char* name : {"HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"}) {
    if (std::string token = trimmed(environment(name)); !token.empty()) return token;
  }
  const std::string path = environment("HF_TOKEN_PATH");
  const fs::path file = path.empty() ? hub_home() / "token" : expanded(path);
  std::error_code absent;
  return fs::is_regular_file(file, absent) ? trimmed(read_file(file, 65536)) : "";
}

}  // namespace

HubOptions hub_options_from_environment(const std::string& endpoint, const std::string& cache_dir) {
  HubOptions options;
  const std::string chosen = endpoint == "auto" ? trimmed(environment("HF_ENDPOINT")) : endpoint;
  if (!chosen.empty()) options.endpoint = chosen;
  while (options.endpoint.ends_with('/')) options.endpoint.pop_back();
  if (hub::origin_of(options.endpoint).empty()) {
    throw UsageError(text("\"{}\" is no address of a hub: HF_ENDPOINT must be like https://huggingface.co",
                          options.endpoint));
  }
  options.cache_dir = cache_dir == "auto" ? default_cache_dir() : expanded(cache_dir);
  options.token = find_token();
  // A token with line breaks inside would become headers of its own.
  const bool printable = std::all_of(options.token.begin(), options.token.end(),
                                     [](unsigned char c) { return c > 0x20 && c < 0x7f; });
  if (!printable) throw UsageError(text("HF_TOKEN has characters that no token has: check how it was set"));
  options.offline = is_true(environment("HF_HUB_OFFLINE"));
  return options;
}

}  // namespace onggi
