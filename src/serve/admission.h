// Who may ask at all, before a body is read.
#pragma once

#include <optional>

#include "serve/routes.h"

namespace onggi {

// Checks keys, Host and Origin before a body is read; answers CORS preflights.
std::optional<HttpResponse> admit_request(const ServiceState& state, const HttpRequest& request);

// Lets the page that asked read the answer; its origin was admitted.
void add_cors(const HttpRequest& request, HttpResponse& response);

}  // namespace onggi
