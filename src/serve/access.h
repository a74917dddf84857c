// Who may use the service: API keys, the Host header, and the origins of web pages. Pure functions.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace onggi {

// The key of a request, from "Authorization: Bearer KEY" (the scheme in any case) or from "x-api-key: KEY";
// empty where there is none.
std::string request_key(std::string_view authorization, std::string_view x_api_key);

// True when key is one of keys; takes the same time wherever a difference is. No keys: everybody may.
bool key_is_valid(const std::vector<std::string>& keys, std::string_view key);

// Whether a service that listens on this machine alone answers to a Host header. Web pages can let a name of
// their own point to 127.0.0.1 (DNS rebinding); so only addresses, localhost, this machine's name and names
// under .localhost, .local and .internal count, as with Ollama. Empty is allowed (HTTP/1.0).
bool host_is_local(std::string_view host_header, std::string_view machine_name);

// True for addresses that only this machine reaches: "localhost", 127.0.0.0/8, "::1".
bool is_loopback(std::string_view host);

// Whether a page of this origin may read answers: pages of this machine and of local applications (app://,
// file://, tauri://, vscode-webview://), the service's own pages, and `allowed` ("*" for all).
bool origin_is_allowed(std::string_view origin, std::string_view host_header,
                       const std::vector<std::string>& allowed);

}  // namespace onggi
