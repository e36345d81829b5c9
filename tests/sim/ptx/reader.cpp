#include "reader.h"

#include <cstdlib>
#include <cstring>

#include "sim/sim.h"

namespace sim::ptx {

void Reader::fail(const std::string& what) const { throw Fault(name_ + ":" + std::to_string(line_) + ": " + what); }

Token Reader::take() {
  line_ = tokens_.next().line;
  is_inline_ = tokens_.next().is_inline;
  return tokens_.take();
}

std::string Reader::take_word() {
  const Token token = take();
  if (token.kind != Token::Kind::kWord) fail("expected a name, got " + std::string(token.text));
  return std::string(token.text);
}

int64_t Reader::take_number() {
  const Token token = take();
  if (token.kind != Token::Kind::kNumber) fail("expected a number, got " + std::string(token.text));
  return number(token.text);
}

void Reader::expect(std::string_view sign) {
  const Token token = take();
  if (!token.is(sign)) fail("expected " + std::string(sign) + ", got " + std::string(token.text));
}

void Reader::skip_to(std::string_view sign) {
  while (!tokens_.skip(sign)) {
    if (take().kind == Token::Kind::kEnd) fail("expected " + std::string(sign) + ", got the end");
  }
}

int64_t Reader::number(std::string_view text) const {
  const bool is_float = text.size() > 2 && (text[1] == 'f' || text[1] == 'd');
  const std::string digits(is_float ? text.substr(2) : text);
  char* end = nullptr;
  const int64_t value = digits[0] == '-' ? std::strtoll(digits.c_str(), &end, 0)
                                         : static_cast<int64_t>(std::strtoull(digits.c_str(), &end, is_float ? 16 : 0));
  if (*end && std::strcmp(end, "U")) fail("no number: " + std::string(text));
  return value;
}

int Reader::bits(const std::string& type) const {
  if (type == ".pred") return 1;
  if (type.size() < 3 || !std::strchr("bsuf", type[1])) fail("no type: " + type);
  return std::stoi(type.substr(2));
}

}  // namespace sim::ptx
