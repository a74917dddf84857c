// The client's end of a request.
#include <algorithm>
#include <iterator>
#include <utility>

#include "infer/engine.h"
#include "infer/stream.h"

namespace onggi {

std::string_view name_of(FinishReason reason) {
  switch (reason) {
    case FinishReason::kStop:
      return "stop";
    case FinishReason::kLength:
      return "length";
    case FinishReason::kCancelled:
      return "cancelled";
    case FinishReason::kError:
      return "error";
  }
  return "";
}

Ticket& Ticket::operator=(Ticket&& other) noexcept {
  if (stream_) stream_->cancel();
  stream_ = std::move(other.stream_);
  return *this;
}

Ticket::~Ticket() {
  if (stream_) stream_->cancel();
}

std::optional<GenerationEvent> Ticket::next(std::chrono::milliseconds timeout) {
  return stream_->next(timeout);
}

void Ticket::cancel() { stream_->cancel(); }

Generation wait_for(Ticket ticket) {
  Generation generation;
  for (;;) {
    std::optional<GenerationEvent> event = ticket.next(std::chrono::milliseconds(1000));
    if (!event) continue;
    generation.text += event->text;
    std::move(event->tokens.begin(), event->tokens.end(), std::back_inserter(generation.tokens));
    if (!event->result) continue;
    generation.result = std::move(*event->result);
    return generation;
  }
}

}  // namespace onggi
