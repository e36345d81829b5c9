// What the names in PTX stand for, and where in the kernels' source an instruction comes from.
#pragma once

#include <map>
#include <optional>
#include <tuple>
#include <unordered_map>

#include "module.h"
#include "tokens.h"

namespace sim::ptx {

struct Register {
  int slot, bits;
};
// A name for memory: at `offset` from what a slot holds.
struct Symbol {
  int16_t base;
  int64_t offset;
};

// Names are valid up to the end of the braces that they are declared in.
class Names {
 public:
  void open() { scopes_.emplace_back(); }
  void close() { scopes_.pop_back(); }
  void declare_register(std::string_view name, const Register& one) { scopes_.back().registers.emplace(name, one); }
  // `prefix` with a number behind it, from 0 on.
  void declare_registers(std::string_view prefix, const Register& first, int count) {
    scopes_.back().ranges.insert_or_assign(std::string(prefix), Range{first, count});
  }
  void declare_symbol(std::string_view name, const Symbol& symbol) { scopes_.back().symbols.emplace(name, symbol); }

  std::optional<Register> find_register(std::string_view name) const;
  std::optional<Symbol> find_symbol(std::string_view name) const;

 private:
  struct Range {
    Register first;
    int count;
  };
  struct Scope {
    std::unordered_map<std::string, Register> registers;
    std::unordered_map<std::string, Range> ranges;
    std::unordered_map<std::string, Symbol> symbols;
  };
  std::vector<Scope> scopes_{1};
};

// What .loc says: a place, and where the function that it lies in was inlined, which has been said before.
class Places {
 public:
  struct Place {
    int file = 0, line = 0, column = 0;
    bool operator<(const Place& other) const {
      return std::tie(file, line, column) < std::tie(other.file, other.line, other.column);
    }
  };
  void add_file(int number, const char* name) { files_[number] = name; }
  void begin_function();
  void set(const Place& place, const std::optional<Place>& inlined_at);

  // Where the present place's function is called, and the one around it, and so on to the first that is no primitive.
  Site site() const;
  // Where the primitive is called that this place is inlined in as a function of the caller's; no file: nowhere.
  Site wait() const;

 private:
  bool is_primitive(const Place& place) const;
  const Place* outward(const Place* place, bool past_primitives) const;
  Site site_of(const Place* place) const;
  std::unordered_map<int, const char*> files_;
  std::map<Place, Place> callers_;
  Place here_;
};

}  // namespace sim::ptx
