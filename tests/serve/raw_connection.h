// A TCP connection that sends bytes as they are and closes when it is told to.
#pragma once

#include <arpa/inet.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <string>

namespace onggi {

class RawConnection {
 public:
  explicit RawConnection(int port) : descriptor_(socket(AF_INET, SOCK_STREAM, 0)) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<uint16_t>(port));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    connected_ = connect(descriptor_, reinterpret_cast<sockaddr*>(&address), sizeof(address)) == 0;
    const timeval limit{5, 0};
    setsockopt(descriptor_, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
  }
  RawConnection(const RawConnection&) = delete;
  RawConnection& operator=(const RawConnection&) = delete;
  ~RawConnection() { end(); }

  bool connected() const { return connected_; }
  void send(const std::string& bytes) {
    (void)!::send(descriptor_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
  }
  // What comes until `until` was seen or the other side closes.
  std::string read(const std::string& until) {
    std::string got;
    std::array<char, 4096> buffer{};
    while (got.find(until) == std::string::npos) {
      const ssize_t size = recv(descriptor_, buffer.data(), buffer.size(), 0);
      if (size <= 0) break;
      got.append(buffer.data(), static_cast<size_t>(size));
    }
    return got;
  }
  void end() {
    if (descriptor_ >= 0) close(descriptor_);
    descriptor_ = -1;
  }

 private:
  int descriptor_;
  bool connected_ = false;
};

}  // namespace onggi
