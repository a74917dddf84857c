// SQLite as values: a connection and prepared statements, errors as exceptions.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "base/file.h"

struct sqlite3;
struct sqlite3_stmt;

namespace onggi {

class Database {
 public:
  // Opens or creates the file, with write-ahead logging and a busy time-out of 5 s. Throws InputError for
  // what is no database, MachineError where the file cannot be written.
  explicit Database(const fs::path& path);
  Database(const Database&) = delete;
  Database& operator=(const Database&) = delete;
  ~Database();

  // Statements without results.
  void run(const char* sql);
  int64_t last_id() const;
  sqlite3* handle() const { return handle_; }
  const fs::path& path() const { return path_; }
  [[noreturn]] void fail() const;

 private:
  fs::path path_;
  sqlite3* handle_ = nullptr;
};

// Rolls back unless commit() was called.
class Transaction {
 public:
  explicit Transaction(Database& database);
  Transaction(const Transaction&) = delete;
  Transaction& operator=(const Transaction&) = delete;
  ~Transaction();
  void commit();

 private:
  Database& database_;
  bool open_ = true;
};

// One prepared statement; parameters are bound in order, columns count from 0.
class Statement {
 public:
  Statement(Database& database, const char* sql);
  Statement(const Statement&) = delete;
  Statement& operator=(const Statement&) = delete;
  ~Statement();

  Statement& bind(std::string_view value);
  Statement& bind(int64_t value);
  // The next row; false when there is none.
  bool step();
  int64_t integer(int column) const;
  std::string text(int column) const;

 private:
  Database& database_;
  sqlite3_stmt* handle_ = nullptr;
  int bound_ = 0;
};

}  // namespace onggi
