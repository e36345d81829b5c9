// PTX text as words, numbers and signs.
#pragma once

#include <string>
#include <string_view>

namespace sim::ptx {

struct Token {
  enum class Kind { kEnd, kWord, kNumber, kString, kSign } kind = Kind::kEnd;
  std::string_view text;
  int line = 0;
  bool is_inline = false;  // of inline assembly, as nvcc's comments say

  bool is(std::string_view other) const { return text == other && kind != Kind::kString; }
};

class Tokens {
 public:
  explicit Tokens(std::string_view text) : text_(text) { advance(); }

  const Token& next() const { return next_; }  // that take() will return
  Token take();
  // Past it, where it is the next one.
  bool skip(std::string_view sign);

 private:
  void advance();
  std::string_view text_;
  size_t at_ = 0;
  int line_ = 1;
  bool is_inline_ = false;
  Token next_;
};

}  // namespace sim::ptx
