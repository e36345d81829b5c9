#include "tokens.h"

#include <cctype>

namespace sim::ptx {
namespace {

bool is_space(char c) { return c == ' ' || c == '\t' || c == '\r' || c == '\n'; }
bool is_of_word(char c) {
  return std::isalnum(static_cast<unsigned char>(c)) || c == '_' || c == '.' || c == '%' || c == '$';
}

}  // namespace

Token Tokens::take() {
  const Token token = next_;
  advance();
  return token;
}

bool Tokens::skip(std::string_view sign) {
  if (!next_.is(sign)) return false;
  advance();
  return true;
}

void Tokens::advance() {
  const auto starts = [&](std::string_view what) { return text_.compare(at_, what.size(), what) == 0; };
  while (at_ < text_.size() && (is_space(text_[at_]) || starts("//"))) {
    if (starts("//")) {
      if (starts("// begin inline asm")) is_inline_ = true;
      if (starts("// end inline asm")) is_inline_ = false;
      while (at_ < text_.size() && text_[at_] != '\n') ++at_;
    } else if (text_[at_++] == '\n') {
      ++line_;
    }
  }
  next_ = {Token::Kind::kEnd, {}, line_, is_inline_};
  if (at_ == text_.size()) return;
  const size_t begin = at_;
  const char first = text_[at_++];
  if (first == '"') {
    while (at_ < text_.size() && text_[at_] != '"') ++at_;
    next_ = {Token::Kind::kString, text_.substr(begin + 1, at_ - begin - 1), line_, is_inline_};
    ++at_;
    return;
  }
  const bool is_negative = first == '-' && at_ < text_.size() && std::isdigit(static_cast<unsigned char>(text_[at_]));
  if (!is_of_word(first) && !is_negative) {
    next_ = {Token::Kind::kSign, text_.substr(begin, 1), line_, is_inline_};
    return;
  }
  // "::" is part of an opcode, ":" ends a label.
  while (at_ < text_.size() && (is_of_word(text_[at_]) || starts("::"))) at_ += text_[at_] == ':' ? 2 : 1;
  const bool is_number = is_negative || std::isdigit(static_cast<unsigned char>(first));
  next_ = {is_number ? Token::Kind::kNumber : Token::Kind::kWord, text_.substr(begin, at_ - begin), line_, is_inline_};
}

}  // namespace sim::ptx
