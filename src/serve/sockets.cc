#include "serve/sockets.h"

#include <netdb.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>

#include <array>
#include <cerrno>
#include <charconv>
#include <filesystem>
#include <functional>
#include <optional>
#include <system_error>

namespace onggi {
namespace {

struct Endpoint {
  std::string address;
  int port = 0;
};

std::optional<Endpoint> describe(const sockaddr_storage& storage, socklen_t length) {
  std::array<char, NI_MAXHOST> host{};
  std::array<char, NI_MAXSERV> port{};
  if (getnameinfo(reinterpret_cast<const sockaddr*>(&storage), length, host.data(), host.size(), port.data(),
                  port.size(), NI_NUMERICHOST | NI_NUMERICSERV) != 0)
    return std::nullopt;
  return Endpoint{host.data(), std::atoi(port.data())};
}

int local_port_of(int descriptor) {
  sockaddr_storage storage{};
  socklen_t length = sizeof(storage);
  if (getsockname(descriptor, reinterpret_cast<sockaddr*>(&storage), &length) != 0) return -1;
  if (storage.ss_family == AF_INET) return ntohs(reinterpret_cast<const sockaddr_in&>(storage).sin_port);
  if (storage.ss_family == AF_INET6) return ntohs(reinterpret_cast<const sockaddr_in6&>(storage).sin6_port);
  return -1;
}

std::optional<Endpoint> peer_of(int descriptor) {
  sockaddr_storage storage{};
  socklen_t length = sizeof(storage);
  if (getpeername(descriptor, reinterpret_cast<sockaddr*>(&storage), &length) != 0) return std::nullopt;
  return describe(storage, length);
}

// Calls visit(descriptor) for each open descriptor until it returns true.
void for_each_descriptor(const std::function<bool(int)>& visit) {
  std::error_code error;
  for (std::filesystem::directory_iterator entry("/proc/self/fd", error), end; !error && entry != end;
       entry.increment(error)) {
    const std::string name = entry->path().filename().string();
    int descriptor = -1;
    const auto parsed = std::from_chars(name.data(), name.data() + name.size(), descriptor);
    if (parsed.ec == std::errc() && visit(descriptor)) return;
  }
}

}  // namespace

int find_connection(int local_port, const std::string& peer_address, int peer_port) {
  int found = -1;
  for_each_descriptor([&](int descriptor) {
    if (local_port_of(descriptor) != local_port) return false;
    const auto peer = peer_of(descriptor);
    if (!peer || peer->port != peer_port || peer->address != peer_address) return false;
    found = descriptor;
    return true;
  });
  return found;
}

bool peer_closed(int descriptor) {
  if (descriptor < 0) return false;
  pollfd entry{descriptor, POLLIN | POLLRDHUP, 0};
  if (poll(&entry, 1, 0) <= 0) return false;
  // RDHUP tells also where bytes are left to read: the last ones of TLS.
  if ((entry.revents & (POLLERR | POLLHUP | POLLNVAL | POLLRDHUP)) != 0) return true;
  char byte = 0;
  const ssize_t got = recv(descriptor, &byte, 1, MSG_PEEK | MSG_DONTWAIT);
  if (got == 0) return true;
  return got < 0 && errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR;
}

void wake_idle_connections(int local_port) {
  for_each_descriptor([&](int descriptor) {
    if (local_port_of(descriptor) == local_port && peer_of(descriptor)) shutdown(descriptor, SHUT_RD);
    return false;
  });
}

}  // namespace onggi
