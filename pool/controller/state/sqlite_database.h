// SQLite's C interface with owners and errors as values. Not thread-safe.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "base/result.h"

struct sqlite3;
struct sqlite3_stmt;

namespace tidepool::pool::controller {

class SqliteDatabase;

class SqliteStatement {
 public:
  // Text and blobs must live until the statement ran. Places count from 1.
  void bind(int place, std::string_view text);
  void bind_blob(int place, std::string_view bytes);
  void bind(int place, std::int64_t number);
  // True: a row is there. After false, or an error, it can be bound and run again.
  Result<bool> step();
  void reset();

  // Of the row, from 0; until the next step.
  std::string_view text(int column) const;
  std::string_view blob(int column) const;
  std::int64_t number(int column) const;

 private:
  friend class SqliteDatabase;
  struct Finalize {
    void operator()(sqlite3_stmt* statement) const;
  };
  SqliteStatement(SqliteDatabase& database, sqlite3_stmt* statement) : database_(&database), statement_(statement) {}

  SqliteDatabase* database_;
  std::unique_ptr<sqlite3_stmt, Finalize> statement_;
};

class SqliteDatabase {
 public:
  enum class Mode : std::uint8_t { kRead, kWrite, kCreate };
  // Errors name the file and what to do about it.
  static Result<std::unique_ptr<SqliteDatabase>> open(const std::string& file, Mode mode);

  Result<> run(const std::string& sql);  // any number of statements, without rows
  Result<SqliteStatement> prepare(std::string_view sql);
  Result<std::string> text_of(std::string_view sql);  // the first column of the first row; empty: no row
  Result<std::int64_t> number_of(std::string_view sql);
  // A consistent copy of the whole database, durable when it returns. `file` must not exist.
  Result<> copy_to(const std::string& file);
  // What is wrong with the database's structure; empty: nothing.
  Result<std::string> integrity_problems();
  bool read_only() const;

  const std::string& file() const { return file_; }
  // Of the last call, or of an error that SQLite did not find itself.
  Failure failed(int code, std::string_view what) const;
  Failure damaged(std::string_view how) const;

 private:
  struct Close {
    void operator()(sqlite3* handle) const;
  };
  explicit SqliteDatabase(std::string file) : file_(std::move(file)) {}

  std::string file_;
  std::unique_ptr<sqlite3, Close> handle_;
};

// Makes a file's name durable, once it has one.
Result<> sync_folder_of(const std::string& file);

}  // namespace tidepool::pool::controller
