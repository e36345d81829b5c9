// Takes tokens one by one, and says where one is not what it has to be.
#pragma once

#include <cstdint>
#include <string>

#include "tokens.h"

namespace sim::ptx {

class Reader {
 public:
  Reader(const std::string& name, std::string_view text) : tokens_(text), name_(name) {}

 protected:
  [[noreturn]] void fail(const std::string& what) const;  // throws Fault: "<name>:<line>: <what>"
  Token take();
  std::string take_word();
  int64_t take_number();
  void expect(std::string_view sign);
  void skip_to(std::string_view sign);

  // Also the bits of a float: 0f3F800000, 0d3FF0000000000000.
  int64_t number(std::string_view text) const;
  // Of a type: 32 for ".f32", 1 for ".pred".
  int bits(const std::string& type) const;

  Tokens tokens_;
  int line_ = 1;            // of the token that was taken last
  bool is_inline_ = false;  // likewise

 private:
  std::string name_;
};

}  // namespace sim::ptx
