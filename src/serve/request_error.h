// What a client did wrong, or what keeps the service from answering, with all that the dialects need to say
// so.
#pragma once

#include <string>
#include <utility>

#include "base/error.h"

namespace onggi {

class RequestError : public InputError {
 public:
  // status: HTTP. field: the place in the request ("messages[1].content"), empty where there is none.
  RequestError(int status, std::string field, const std::string& message)
      : InputError(message), status_(status), field_(std::move(field)) {}

  int status() const { return status_; }
  const std::string& field() const { return field_; }

 private:
  int status_;
  std::string field_;
};

}  // namespace onggi
