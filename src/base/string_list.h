// Many short strings in one piece of memory: a vocabulary takes a third of a vector of strings, and is made
// and copied without an allocation for each.
#pragma once

#include <cstddef>
#include <initializer_list>
#include <iterator>
#include <string>
#include <string_view>
#include <vector>

namespace onggi {

class StringList {
 public:
  using value_type = std::string_view;

  class Iterator {
   public:
    using iterator_category = std::input_iterator_tag;  // there is no string to refer to
    using value_type = std::string_view;
    using difference_type = std::ptrdiff_t;
    using reference = std::string_view;
    using pointer = const std::string_view*;

    Iterator() = default;
    Iterator(const StringList& list, size_t at) : list_(&list), at_(at) {}
    std::string_view operator*() const { return (*list_)[at_]; }
    Iterator& operator++() { return ++at_, *this; }
    Iterator operator++(int) { return {*list_, at_++}; }
    difference_type operator-(const Iterator& other) const {
      return static_cast<difference_type>(at_) - static_cast<difference_type>(other.at_);
    }
    bool operator==(const Iterator& other) const { return at_ == other.at_; }

   private:
    const StringList* list_ = nullptr;
    size_t at_ = 0;
  };

  StringList() = default;
  StringList(std::initializer_list<std::string_view> strings) {
    for (const std::string_view string : strings) push_back(string);
  }

  size_t size() const { return ends_.size(); }
  bool empty() const { return ends_.empty(); }
  size_t total_bytes() const { return bytes_.size(); }
  // Valid until the list changes.
  std::string_view operator[](size_t i) const {
    const size_t begin = i == 0 ? 0 : ends_[i - 1];
    return std::string_view(bytes_).substr(begin, ends_[i] - begin);
  }
  std::string_view back() const { return (*this)[size() - 1]; }
  Iterator begin() const { return {*this, 0}; }
  Iterator end() const { return {*this, size()}; }

  void reserve(size_t strings, size_t bytes) {
    ends_.reserve(strings);
    bytes_.reserve(bytes);
  }
  void push_back(std::string_view string) {
    bytes_ += string;
    ends_.push_back(bytes_.size());
  }
  void pop_back() {
    bytes_.resize(bytes_.size() - back().size());
    ends_.pop_back();
  }

  bool operator==(const StringList&) const = default;

 private:
  std::string bytes_;
  std::vector<size_t> ends_;  // by string: where it ends in bytes_
};

}  // namespace onggi
