// The socket behind a request: cpp-httplib does not hand it out, but only it tells that a client went away
// while nothing is being written to it.
#pragma once

#include <string>

namespace onggi {

// The descriptor of this process's connection between local_port and the peer; -1 where there is none. The
// caller is the thread that serves the connection, so the descriptor stays valid for the whole request.
int find_connection(int local_port, const std::string& peer_address, int peer_port);

// True when the peer closed its end or the connection broke. Bytes that wait to be read (a pipelined request)
// are left alone. False for -1.
bool peer_closed(int descriptor);

// Ends the reading side of every connection to a listening port, so that idle keep-alive connections end now
// instead of after their time-out.
void wake_idle_connections(int local_port);

}  // namespace onggi
