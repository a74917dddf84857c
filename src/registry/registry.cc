#include "registry/registry.h"

#include <algorithm>
#include <charconv>
#include <nlohmann/json.hpp>

#include "base/clock.h"
#include "base/error.h"
#include "base/text.h"
#include "formats/json_file.h"

namespace onggi {
namespace {

constexpr const char* kPromoted = "promoted";
constexpr const char* kRecordFile = "version.json";

constexpr const char* kSchema = R"(
CREATE TABLE IF NOT EXISTS versions (
  id INTEGER PRIMARY KEY, name TEXT NOT NULL, number INTEGER NOT NULL, path TEXT NOT NULL, bytes INTEGER NOT NULL,
  sha256 TEXT NOT NULL, created TEXT NOT NULL, note TEXT NOT NULL, lineage TEXT NOT NULL, UNIQUE (name, number));
CREATE TABLE IF NOT EXISTS tags (
  name TEXT NOT NULL, tag TEXT NOT NULL, version INTEGER NOT NULL REFERENCES versions (id), PRIMARY KEY (name, tag));
CREATE TABLE IF NOT EXISTS promotions (
  id INTEGER PRIMARY KEY, name TEXT NOT NULL, version INTEGER NOT NULL REFERENCES versions (id), time TEXT NOT NULL);
)";

std::optional<int64_t> as_number(const std::string& text) {
  int64_t number = 0;
  const auto parsed = std::from_chars(text.data(), text.data() + text.size(), number);
  if (parsed.ec != std::errc() || parsed.ptr != text.data() + text.size()) return std::nullopt;
  return number;
}

void check_name(const std::string& name) {
  const bool good = !name.empty() && name.size() <= 200 && name[0] != '.' &&
                    std::all_of(name.begin(), name.end(), [](unsigned char c) {
                      return std::isalnum(c) != 0 || c == '-' || c == '_' || c == '.' || c == ':';
                    });
  if (!good) throw UsageError(text("\"{}\" is no name for a model; use letters, digits and - _ . :", name));
}

// Copies a file, or a folder with all that is in it.
void copy_model(const fs::path& from, const fs::path& to) {
  if (fs::is_regular_file(from)) {
    duplicate_file(from, to);
    return;
  }
  for (const auto& entry : fs::recursive_directory_iterator(from))
    if (entry.is_regular_file()) duplicate_file(entry.path(), to / fs::relative(entry.path(), from));
}

ModelVersion read_row(const Statement& row) {
  ModelVersion version;
  version.name = row.text(1);
  version.number = row.integer(2);
  version.path = row.text(3);
  version.bytes = static_cast<uint64_t>(row.integer(4));
  version.sha256 = row.text(5);
  version.created = row.text(6);
  version.note = row.text(7);
  version.lineage = row.text(8);
  return version;
}

}  // namespace

Registry::Registry(const fs::path& folder) : database_(folder / "registry.db") { database_.run(kSchema); }

ModelVersion Registry::add(const NewVersion& given) {
  check_name(given.name);
  const nlohmann::json lineage = parse_json(given.lineage, "lineage");
  if (!lineage.is_object()) throw UsageError(text("a version's lineage must be a JSON object"));
  const fs::path path = fs::absolute(given.path).lexically_normal();
  const ModelDigest digest = digest_of(path);
  Transaction transaction(database_);
  Statement known(database_, "SELECT number FROM versions WHERE name = ? AND path = ? AND sha256 = ?");
  known.bind(given.name).bind(path.string()).bind(digest.sha256);
  int64_t number = 0;
  if (known.step()) {
    number = known.integer(0);
  } else {
    Statement last(database_, "SELECT COALESCE(MAX(number), 0) FROM versions WHERE name = ?");
    last.bind(given.name).step();
    number = last.integer(0) + 1;
    Statement insert(database_,
                     "INSERT INTO versions (name, number, path, bytes, sha256, created, note, lineage) "
                     "VALUES (?, ?, ?, ?, ?, ?, ?, ?)");
    insert.bind(given.name).bind(number).bind(path.string()).bind(static_cast<int64_t>(digest.bytes));
    insert.bind(digest.sha256).bind(utc_now_rfc3339()).bind(given.note).bind(lineage.dump()).step();
  }
  transaction.commit();
  return find(given.name, std::to_string(number));
}

std::vector<int64_t> Registry::promotions(const std::string& name) {
  Statement rows(database_, "SELECT version FROM promotions WHERE name = ? ORDER BY id");
  rows.bind(name);
  std::vector<int64_t> ids;
  while (rows.step()) ids.push_back(rows.integer(0));
  return ids;
}

std::vector<ModelVersion> Registry::list(const std::string& name) {
  Statement rows(database_,
                 "SELECT id, name, number, path, bytes, sha256, created, note, lineage FROM versions "
                 "WHERE ?1 = '' OR name = ?1 ORDER BY name, number DESC");
  rows.bind(name);
  std::vector<ModelVersion> versions;
  while (rows.step()) {
    ModelVersion version = read_row(rows);
    const int64_t id = rows.integer(0);
    Statement tags(database_, "SELECT tag FROM tags WHERE version = ? ORDER BY tag");
    tags.bind(id);
    while (tags.step()) version.tags.push_back(tags.text(0));
    const auto promoted = promotions(version.name);
    if (!promoted.empty() && promoted.back() == id) version.state = ModelVersion::State::kPromoted;
    versions.push_back(std::move(version));
  }
  return versions;
}

ModelVersion Registry::find(const std::string& name, const std::string& wanted) {
  const auto number = as_number(wanted);
  for (ModelVersion& version : list(name)) {
    const bool is_promoted = wanted == kPromoted && version.state == ModelVersion::State::kPromoted;
    const bool is_tagged = std::find(version.tags.begin(), version.tags.end(), wanted) != version.tags.end();
    if (version.number == number || is_promoted || is_tagged) return std::move(version);
  }
  throw InputError(text("the registry has no version \"{}\" of \"{}\"; onggi models list shows what there is",
                        wanted, name));
}

int64_t Registry::id_of(const std::string& name, int64_t number) {
  Statement row(database_, "SELECT id FROM versions WHERE name = ? AND number = ?");
  row.bind(name).bind(number);
  ONGGI_CHECK(row.step(), "a version that was found");
  return row.integer(0);
}

void Registry::tag(const std::string& name, const std::string& version, const std::string& tag) {
  check_name(tag);
  if (as_number(tag) || tag == kPromoted)
    throw UsageError(text("\"{}\" cannot be a tag: it means a version already", tag));
  const int64_t id = id_of(name, find(name, version).number);
  Statement insert(database_, "INSERT OR REPLACE INTO tags (name, tag, version) VALUES (?, ?, ?)");
  insert.bind(name).bind(tag).bind(id).step();
}

void Registry::verify(const ModelVersion& version) {
  const ModelDigest digest = digest_of(version.path);
  if (digest.sha256 != version.sha256)
    throw WorkError(
        text("{} is not what version {} of {} was when it was added; add it again or restore a backup",
             version.path.string(), version.number, version.name));
}

ModelVersion Registry::promote(const std::string& name, const std::string& version) {
  const ModelVersion found = find(name, version);
  verify(found);
  if (found.state == ModelVersion::State::kPromoted) return found;
  Statement insert(database_, "INSERT INTO promotions (name, version, time) VALUES (?, ?, ?)");
  insert.bind(name).bind(id_of(name, found.number)).bind(utc_now_rfc3339()).step();
  return find(name, kPromoted);
}

ModelVersion Registry::roll_back(const std::string& name) {
  Transaction transaction(database_);
  if (promotions(name).size() < 2)
    throw InputError(text("\"{}\" has no earlier promoted version to go back to", name));
  Statement remove(database_,
                   "DELETE FROM promotions WHERE id = (SELECT MAX(id) FROM promotions WHERE name = ?)");
  remove.bind(name).step();
  // Read and checked before anything changes for good: a version whose file is gone must not go into service.
  ModelVersion version = find(name, kPromoted);
  verify(version);
  transaction.commit();
  return version;
}

fs::path Registry::back_up(const std::string& name, const std::string& wanted, const fs::path& folder) {
  const ModelVersion version = find(name, wanted);
  const fs::path target = folder / fmt::format("{}-{}", version.name, version.number);
  if (fs::exists(target))
    throw InputError(text("{} is there already; choose another folder", target.string()));
  verify(version);
  const uint64_t free = free_disk_bytes(folder);
  if (free < version.bytes)
    throw MachineError(
        text("a backup needs {} bytes, but {} has {} free", version.bytes, folder.string(), free));
  const fs::path copy = target / "model" / version.path.filename();
  copy_model(version.path, copy);
  if (digest_of(copy).sha256 != version.sha256)
    throw WorkError(text("the copy in {} differs from the model; check the disk", target.string()));
  // Written last: a backup without it is not whole.
  write_json_file(target / kRecordFile, {{"name", version.name},
                                         {"number", version.number},
                                         {"file", version.path.filename().string()},
                                         {"sha256", version.sha256},
                                         {"bytes", version.bytes},
                                         {"created", version.created},
                                         {"note", version.note},
                                         {"lineage", nlohmann::json::parse(version.lineage)}});
  return target;
}

ModelVersion Registry::restore(const fs::path& backup, const fs::path& destination) {
  const nlohmann::json document = read_json_file(backup / kRecordFile, 1 << 20);
  const JsonObject record(document, (backup / kRecordFile).string());
  const std::string file = record.get_string("file");
  if (fs::path(file).filename() != file || file.empty() || file == "." || file == "..")
    throw InputError(text("{} names a file outside the backup", record.source()));
  const fs::path copy = backup / "model" / file;
  if (digest_of(copy).sha256 != record.get_string("sha256"))
    throw InputError(
        text("the backup {} is damaged: its files are not those that were backed up", backup.string()));
  if (fs::exists(destination))
    throw InputError(text("{} is there already; choose another destination", destination.string()));
  copy_model(copy, destination);
  return add(
      {record.get_string("name"), destination, record.get_string("note"), record.at("lineage").dump()});
}

}  // namespace onggi
