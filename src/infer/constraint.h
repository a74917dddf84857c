// What may limit the tokens of an answer (JSON mode, JSON schemas).
#pragma once

#include <cstdint>

namespace onggi {

// Follows one answer token by token. Used by one thread at a time.
class TokenConstraint {
 public:
  virtual ~TokenConstraint() = default;
  // Whether the answer so far, followed by this token, can still become valid. Does not change the state.
  virtual bool allows(int32_t id) const = 0;
  // Appends a token that allows() accepted.
  virtual void accept(int32_t id) = 0;
  // True when the answer is whole and nothing more may follow: the generation ends as with an eos token.
  virtual bool finished() const = 0;
};

}  // namespace onggi
