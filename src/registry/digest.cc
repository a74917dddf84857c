#include <algorithm>

#include "base/error.h"
#include "base/text.h"
#include "registry/registry.h"

namespace onggi {

ModelDigest digest_of(const fs::path& path) {
  if (fs::is_regular_file(path)) return {sha256_hex_of_file(path), fs::file_size(path)};
  if (!fs::is_directory(path)) throw InputError(text("there is no model at {}", path.string()));
  std::vector<fs::path> files;
  for (const auto& entry : fs::recursive_directory_iterator(path))
    if (entry.is_regular_file()) files.push_back(entry.path());
  std::sort(files.begin(), files.end());
  ModelDigest digest;
  std::string listing;
  for (const fs::path& file : files) {
    digest.bytes += fs::file_size(file);
    listing += sha256_hex_of_file(file) + "  " + fs::relative(file, path).generic_string() + "\n";
  }
  digest.sha256 = sha256_hex(listing);
  return digest;
}

}  // namespace onggi
