#include "tokenizer/tokenizer_json_reader.h"

#include "base/error.h"
#include "base/text.h"

namespace onggi {
namespace {

using Json = nlohmann::json;

class Reader : public nlohmann::json_sax<Json> {
 public:
  bool null() override { return value(nullptr); }
  bool boolean(bool flag) override { return value(flag); }
  bool number_integer(number_integer_t number) override { return value(number); }
  bool number_float(number_float_t number, const string_t&) override { return value(number); }
  bool binary(binary_t&) override { return false; }

  bool number_unsigned(number_unsigned_t number) override {
    if (part_ != Part::kVocabulary) return value(number);
    result_.vocabulary.emplace_back(std::move(key_), number);
    return true;
  }

  bool string(string_t& text) override {
    if (part_ != Part::kMerges) return value(std::move(text));
    if (depth_ == 1) {
      split_merge(text);
    } else if (halves_ == 2 || text.find(' ') != std::string::npos) {
      damaged_merge();
    } else if (halves_++ == 0) {
      left_ = std::move(text);
    } else {
      result_.merges.push_back(left_ + ' ' + text);
    }
    return true;
  }

  bool start_object(size_t) override {
    if (part_ == Part::kRest && stack_.size() == 2 && in_model_ && key_ == "vocab") {
      result_.has_vocabulary = true;
      result_.vocabulary.clear();
      part_ = Part::kVocabulary;
      return true;
    }
    if (part_ != Part::kRest) return value(nullptr);
    if (stack_.size() == 1) in_model_ = key_ == "model";
    return open(Json::object());
  }
  bool end_object() override {
    if (part_ == Part::kVocabulary) {
      part_ = Part::kRest;
    } else {
      stack_.pop_back();
    }
    return true;
  }

  bool start_array(size_t) override {
    if (part_ == Part::kMerges && depth_ == 1) {
      depth_ = 2;
      halves_ = 0;
      return true;
    }
    if (part_ == Part::kRest && stack_.size() == 2 && in_model_ && key_ == "merges") {
      result_.has_merges = true;
      result_.merges = {};
      part_ = Part::kMerges;
      depth_ = 1;
      return true;
    }
    if (part_ != Part::kRest) return value(nullptr);
    if (stack_.size() == 1) in_model_ = false;
    return open(Json::array());
  }
  bool end_array() override {
    if (part_ == Part::kRest) {
      stack_.pop_back();
    } else if (--depth_ == 0) {
      part_ = Part::kRest;
    } else if (halves_ != 2) {
      damaged_merge();
    }
    return true;
  }

  bool key(string_t& name) override {
    key_ = std::move(name);
    return true;
  }

  bool parse_error(size_t, const std::string&, const nlohmann::detail::exception& error) override {
    throw InputError(text("tokenizer.json is not valid JSON: {}; fetch the file again", error.what()));
  }

  TokenizerJson result_;

 private:
  enum class Part { kRest, kVocabulary, kMerges };

  // A value of the rest; of the two parts that have a form of their own, an entry of another form.
  template <typename T>
  bool value(T&& item) {
    if (part_ == Part::kVocabulary) {
      throw_damaged_tokenizer(text("the id of the token \"{}\" is not a number", key_.substr(0, 100)));
    }
    if (part_ == Part::kMerges) damaged_merge();
    put(std::forward<T>(item));
    return true;
  }

  Json* put(Json item) {
    if (stack_.empty()) {
      result_.rest = std::move(item);
      return &result_.rest;
    }
    Json& parent = *stack_.back();
    if (parent.is_array()) {
      parent.push_back(std::move(item));
      return &parent.back();
    }
    Json& slot = parent[key_];
    slot = std::move(item);
    return &slot;
  }

  // A container stays where it is while its children are added: the parent grows no more until it is closed.
  bool open(Json container) {
    stack_.push_back(put(std::move(container)));
    return true;
  }

  // "left right", the form of older files.
  void split_merge(const std::string& both) {
    const size_t space = both.find(' ');
    if (space == std::string::npos || both.find(' ', space + 1) != std::string::npos) {
      throw_damaged_tokenizer(
          text("merge {} is not two tokens with a space between them", result_.merges.size()));
    }
    result_.merges.push_back(both);
  }

  [[noreturn]] void damaged_merge() const {
    const size_t index = result_.merges.size() - (depth_ == 2 && halves_ == 2 ? 1 : 0);
    throw_damaged_tokenizer(text("merge {} is neither a string nor a pair of strings", index));
  }

  std::vector<Json*> stack_;  // the open containers of the rest
  std::string key_;
  bool in_model_ = false;
  Part part_ = Part::kRest;
  int depth_ = 0;   // of the merges: 1 in the list, 2 in a pair
  int halves_ = 0;  // of the open pair
  std::string left_;
};

}  // namespace

void throw_damaged_tokenizer(const std::string& what) {
  throw InputError(text("tokenizer.json is damaged: {}; fetch the file again", what));
}

TokenizerJson read_tokenizer_json(std::string_view bytes) {
  Reader reader;
  Json::sax_parse(bytes, &reader);
  return std::move(reader.result_);
}

}  // namespace onggi
