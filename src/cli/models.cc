// onggi models: the register of model versions.
#include <CLI/CLI.hpp>
#include <memory>
#include <nlohmann/json.hpp>

#include "base/human.h"
#include "base/text.h"
#include "cli/command.h"
#include "cli/terminal.h"
#include "config/config.h"
#include "registry/registry.h"

namespace onggi {
namespace {

struct Options {
  std::string folder;
  std::string action, name, version, path, tag, note;
  std::string lineage = "{}";
  bool json = false;
};

nlohmann::ordered_json to_json(const ModelVersion& version) {
  return {{"name", version.name},
          {"version", version.number},
          {"promoted", version.state == ModelVersion::State::kPromoted},
          {"tags", version.tags},
          {"path", version.path.string()},
          {"bytes", version.bytes},
          {"sha256", version.sha256},
          {"created", version.created},
          {"note", version.note},
          {"lineage", nlohmann::ordered_json::parse(version.lineage)}};
}

void print(const std::vector<ModelVersion>& versions, const Options& options) {
  const Terminal terminal(stdout);
  if (options.json) {
    auto list = nlohmann::ordered_json::array();
    for (const ModelVersion& version : versions) list.push_back(to_json(version));
    terminal.write(list.dump(2) + "\n");
    return;
  }
  if (versions.empty()) {
    terminal.write(text("no versions yet; onggi models add NAME PATH adds one") + "\n");
    return;
  }
  Table table(
      {text("name"), text("version"), text("in service"), text("tags"), text("size"), text("added"),
       text("path")},
      {Align::kLeft, Align::kRight, Align::kLeft, Align::kLeft, Align::kRight, Align::kLeft, Align::kLeft});
  for (const ModelVersion& version : versions) {
    std::string tags;
    for (const std::string& tag : version.tags) tags += (tags.empty() ? "" : ", ") + tag;
    table.add({version.name, std::to_string(version.number),
               version.state == ModelVersion::State::kPromoted ? text("yes") : "", tags,
               bytes_text(static_cast<double>(version.bytes)), version.created.substr(0, 19),
               version.path.string()});
  }
  terminal.write(table.to_string(terminal));
}

// The action's own sub-command; what it takes stands in the order in which it is typed.
CLI::App* add_action(CLI::App& app, const std::shared_ptr<Options>& options, const char* name,
                     const std::string& description) {
  CLI::App* action = app.add_subcommand(name, description);
  action->group(text("Commands"));
  action->set_help_flag("-h,--help", text("Print this help and exit"));
  action->callback([options, name] { options->action = name; });
  return action;
}

void add_name_and_version(CLI::App* action, const std::shared_ptr<Options>& options) {
  action->add_option("name", options->name, text("The model's name"))->required();
  action->add_option("version", options->version, text("A number, a tag, or promoted"))->required();
}

ExitCode run(const Options& options) {
  Registry registry(options.folder.empty() ? load_config(std::nullopt).registry_dir()
                                           : fs::path(options.folder));
  if (options.action == "add")
    print({registry.add({options.name, options.path, options.note, options.lineage})}, options);
  if (options.action == "list") print(registry.list(options.name), options);
  if (options.action == "tag") {
    registry.tag(options.name, options.version, options.tag);
    print({registry.find(options.name, options.tag)}, options);
  }
  if (options.action == "promote") print({registry.promote(options.name, options.version)}, options);
  if (options.action == "rollback") print({registry.roll_back(options.name)}, options);
  if (options.action == "verify") {
    const ModelVersion version = registry.find(options.name, options.version);
    registry.verify(version);
    print({version}, options);
  }
  if (options.action == "backup") {
    const fs::path folder = registry.back_up(options.name, options.version, options.path);
    Terminal(stdout).write(text("backed up to {}", folder.string()) + "\n");
  }
  if (options.action == "restore") print({registry.restore(options.name, options.path)}, options);
  return ExitCode::kDone;
}

}  // namespace

RunCommand setup_models(CLI::App& app) {
  auto options = std::make_shared<Options>();
  app.require_subcommand(1);
  app.add_option("--registry", options->folder, text("The registry's folder; else outputs/registry"));
  app.add_flag("--json", options->json, text("Print JSON"));
  CLI::App* add = add_action(app, options, "add", text("Add a model file or folder as a new version"));
  add->add_option("name", options->name, text("The model's name"))->required();
  add->add_option("path", options->path, text("A Hugging Face folder or a GGUF file"))->required();
  add->add_option("--note", options->note, text("What is special about it"));
  add->add_option("--lineage", options->lineage, text("Where it comes from, as a JSON object"));
  CLI::App* list = add_action(app, options, "list", text("Show the versions"));
  list->add_option("name", options->name, text("Only those of this model"));
  CLI::App* tag = add_action(app, options, "tag", text("Name a version"));
  add_name_and_version(tag, options);
  tag->add_option("tag", options->tag, text("The tag; it moves when it is there already"))->required();
  add_name_and_version(add_action(app, options, "promote", text("Put a version into service")), options);
  add_name_and_version(add_action(app, options, "verify", text("Check a version's bytes")), options);
  CLI::App* rollback = add_action(app, options, "rollback", text("Go back to the version promoted before"));
  rollback->add_option("name", options->name, text("The model's name"))->required();
  CLI::App* backup = add_action(app, options, "backup", text("Copy a version and its record into a folder"));
  add_name_and_version(backup, options);
  backup->add_option("folder", options->path, text("Where the backups are"))->required();
  CLI::App* restore = add_action(app, options, "restore", text("Put a backup back and add it"));
  restore->add_option("backup", options->name, text("The folder that backup made"))->required();
  restore->add_option("destination", options->path, text("Where the model goes"))->required();
  return [options] { return run(*options); };
}

}  // namespace onggi
