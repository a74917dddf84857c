#include "serve/access.h"

#include <gtest/gtest.h>

namespace onggi {
namespace {

TEST(Keys, AreReadFromBothHeaders) {
  EXPECT_EQ(request_key("Bearer abc", ""), "abc");
  EXPECT_EQ(request_key("bearer  abc ", "x"), "abc");
  EXPECT_EQ(request_key("Basic abc", "x"), "x");
  EXPECT_EQ(request_key("", ""), "");
  EXPECT_TRUE(key_is_valid({}, ""));
  EXPECT_TRUE(key_is_valid({"a", "b"}, "b"));
  EXPECT_FALSE(key_is_valid({"a", "b"}, "c"));
  EXPECT_FALSE(key_is_valid({"a"}, ""));
  EXPECT_FALSE(key_is_valid({""}, ""));
}

TEST(Hosts, MustBeLocalNames) {
  for (const char* host : {"", "localhost", "localhost:11434", "127.0.0.1:8000", "[::1]:8000", "192.168.0.7",
                           "Box", "box:1", "a.localhost", "printer.local", "host.docker.internal:11434"})
    EXPECT_TRUE(host_is_local(host, "box")) << host;
  for (const char* host :
       {"evil.example", "evil.example:8000", "localhost.evil.example", "127.0.0.1.evil.example"})
    EXPECT_FALSE(host_is_local(host, "box")) << host;
  for (const char* host : {"localhost", "127.0.0.1", "127.0.0.53", "::1"})
    EXPECT_TRUE(is_loopback(host)) << host;
  for (const char* host : {"0.0.0.0", "127.evil.example", "10.0.0.1", "::"})
    EXPECT_FALSE(is_loopback(host)) << host;
}

TEST(Origins, AreLocalOrNamed) {
  for (const char* origin :
       {"", "http://localhost", "https://localhost:3000", "http://127.0.0.1:5173", "http://[::1]:1",
        "app://obsidian.md", "tauri://localhost", "http://onggi.example:8000"})
    EXPECT_TRUE(origin_is_allowed(origin, "onggi.example:8000", {})) << origin;
  for (const char* origin :
       {"null", "https://evil.example", "http://localhost.evil.example", "ftp://localhost"})
    EXPECT_FALSE(origin_is_allowed(origin, "127.0.0.1:8000", {})) << origin;
  EXPECT_TRUE(origin_is_allowed("https://a.example", "", {"https://a.example"}));
  EXPECT_FALSE(origin_is_allowed("https://b.example", "", {"https://a.example"}));
  EXPECT_TRUE(origin_is_allowed("null", "", {"*"}));
}

}  // namespace
}  // namespace onggi
