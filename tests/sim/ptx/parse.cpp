#include <algorithm>

#include "memory.h"
#include "operands.h"

namespace sim::ptx {
namespace {

int64_t rounded_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

class Parser : Operands {
 public:
  Parser(const std::string& name, const std::string& text) : Operands(name, text) { name_files(text); }
  std::unique_ptr<Module> run() {
    while (tokens_.next().kind != Token::Kind::kEnd) parse_top();
    place_registers();
    return std::move(module_);
  }

 private:
  // ---- what stands outside of functions

  // The table of files that .loc speaks of stands at the end.
  void name_files(const std::string& text) {
    constexpr std::string_view kFile = "\n\t.file\t";
    for (size_t at = text.find(kFile); at != std::string::npos; at = text.find(kFile, at + 1)) {
      Tokens line(std::string_view(text).substr(at + kFile.size(), text.find('\n', at + 1) - at - kFile.size()));
      const Token file_number = line.take();
      module_->file_names.emplace_back(line.take().text);
      places_.add_file(std::stoi(std::string(file_number.text)), module_->file_names.back().c_str());
    }
  }

  void parse_top() {
    const std::string word = take_word();
    if (word == ".version" || word == ".target" || word == ".address_size") {
      take();
    } else if (word == ".file") {
      take();
      take();
    } else if (word == ".section") {
      skip_to("}");
    } else if (word == ".global" || word == ".shared") {
      parse_variable(word);
    } else if (word == ".func" || word == ".entry") {
      parse_function(word == ".entry");
    } else if (word != ".visible" && word != ".extern" && word != ".weak") {
      fail("unknown directive " + word);
    }
  }

  struct Variable {
    std::string name;
    int64_t align = 1, bytes = 0;
    bool is_open = false;  // "[]"
  };
  // ".align 8 .b8 name[464]"
  Variable parse_variable_name() {
    Variable variable;
    if (tokens_.skip(".align")) variable.align = take_number();
    const int width = bits(take_word()) / 8;
    variable.align = std::max<int64_t>(variable.align, width);
    variable.name = take_word();
    variable.bytes = width;
    if (!tokens_.skip("[")) return variable;
    variable.is_open = tokens_.next().is("]");
    if (!variable.is_open) variable.bytes *= take_number();
    expect("]");
    return variable;
  }
  void parse_variable(const std::string& space) {
    const Variable variable = parse_variable_name();
    if (space == ".shared") {
      if (!variable.is_open) fail("shared memory of a size that is not the launch's");
      names_.declare_symbol(variable.name, {constant(kSharedBase), 0});
    } else {
      std::string& data = module_->data.emplace_back(variable.bytes, '\0');
      if (tokens_.skip("=")) {
        expect("{");
        for (size_t n = 0; n < data.size(); ++n) {
          data[n] = static_cast<char>(take_number());
          if (!tokens_.skip(",")) break;
        }
        expect("}");
      }
      names_.declare_symbol(variable.name, {constant(reinterpret_cast<Slot>(data.data())), 0});
    }
    expect(";");
  }

  // ---- functions

  int64_t in_frame(const Variable& variable) {
    const int64_t offset = rounded_up(frame_top_, std::max<int64_t>(variable.align, 16));
    frame_top_ = offset + variable.bytes;
    module_->frame_bytes = std::max(module_->frame_bytes, frame_top_);
    return offset;
  }
  // "(.param .b64 a, .param .align 8 .b8 b[16])", each in memory of its own.
  std::vector<Parameter> parse_parameters(bool of_kernel) {
    std::vector<Parameter> all;
    int64_t end = 0;
    expect("(");
    while (!tokens_.skip(")")) {
      expect(".param");
      const Variable variable = parse_variable_name();
      end = rounded_up(end, variable.align);
      const int64_t offset = of_kernel ? end : in_frame(variable);
      end += variable.bytes;
      names_.declare_symbol(variable.name, {of_kernel ? kParamsBase : kFrameBase, offset});
      all.push_back({offset, variable.bytes});
      tokens_.skip(",");
    }
    return all;
  }
  void parse_function(bool is_kernel) {
    Function function;
    function.is_kernel = is_kernel;
    names_.open();
    if (tokens_.next().is("(")) function.results = parse_parameters(false);
    function.name = take_word();
    if (tokens_.next().is("(")) function.parameters = parse_parameters(is_kernel);
    if (is_kernel && !function.parameters.empty())
      function.parameter_bytes = function.parameters.back().offset + function.parameters.back().bytes;
    while (!tokens_.next().is("{") && !tokens_.next().is(";")) {
      const std::string word = take_word();
      if (word != ".maxntid" && word != ".minnctapersm" && word != ".noreturn") fail("unknown directive " + word);
      if (word == ".noreturn") continue;
      const int64_t number = take_number();
      if (word == ".maxntid") function.most_threads = static_cast<int>(number);
      while (tokens_.skip(",")) take_number();
    }
    function.is_defined = take().is("{");
    function.begin = static_cast<int>(module_->code.size());
    const auto [known, is_new] =
        function_numbers_.try_emplace(function.name, static_cast<int>(module_->functions.size()));
    if (is_new) module_->functions.emplace_back();
    Function& place = module_->functions[known->second];
    if (place.is_defined) fail(function.name + " is defined twice");
    place = function;
    if (function.is_defined) {
      parse_body(place);  // its last brace closes the names, too
    } else {
      names_.close();
    }
  }
  void parse_body(Function& function) {
    num_registers_ = 0;
    labels_.clear();
    branches_.clear();
    places_.begin_function();
    std::vector<int64_t> frame_tops{frame_top_};
    while (!frame_tops.empty()) {
      if (tokens_.skip("{")) {
        frame_tops.push_back(frame_top_);
        names_.open();
      } else if (tokens_.skip("}")) {
        frame_top_ = frame_tops.back();
        frame_tops.pop_back();
        names_.close();
      } else {
        parse_statement();
      }
    }
    function.end = static_cast<int>(module_->code.size());
    function.num_registers = num_registers_;
    frame_top_ = module_->frame_bytes;  // nobody else's memory is the function's, nor a caller's
    for (const auto& [at, label] : branches_) {
      const auto found = labels_.find(label);
      if (found == labels_.end()) fail("no label " + label);
      module_->code[at].target = found->second;
    }
  }

  // Behind all functions' registers, which lie one behind the other, those of a kernel; kernels do not call kernels.
  void place_registers() {
    int behind = 0;
    for (const Function& function : module_->functions)
      if (!function.is_kernel) behind += function.num_registers;
    int next = 0;
    for (Function& function : module_->functions) {
      const int shift = function.is_kernel ? behind : next;
      if (!function.is_kernel) next += function.num_registers;
      function.first_register += shift;
      if (function.first_register + function.num_registers > INT16_MAX) fail(function.name + ": too many registers");
      for (int n = function.begin; n < function.end; ++n) {
        Instruction& i = module_->code[n];
        for (int16_t& slot : i.operand)
          if (slot >= kFirstRegister) slot = static_cast<int16_t>(slot + shift);
        if (i.guard != kNone) i.guard = static_cast<int16_t>(i.guard + shift);
      }
    }
  }

  // ---- statements

  void parse_statement() {
    if (tokens_.next().kind == Token::Kind::kSign) return parse_instruction();  // "@"
    const std::string word = take_word();
    if (word == ".loc") return parse_place();
    if (word == ".reg") return parse_registers();
    if (word == ".param" || word == ".local") {
      const Variable variable = parse_variable_name();
      names_.declare_symbol(variable.name, {kFrameBase, in_frame(variable)});
      return expect(";");
    }
    if (word == ".pragma") return parse_pragma();
    if (tokens_.skip(":")) {
      labels_[word] = static_cast<int>(module_->code.size());
      return;
    }
    if (word[0] == '.') fail("unknown directive " + word);
    parse_instruction(word);
  }

  // ".loc 2 129 72, function_name $L__info_string21, inlined_at 1 105 3"
  void parse_place() {
    const auto take_place = [&] {
      const int file = static_cast<int>(take_number()), line = static_cast<int>(take_number());
      return Places::Place{file, line, static_cast<int>(take_number())};
    };
    const Places::Place place = take_place();
    std::optional<Places::Place> inlined_at;
    if (tokens_.skip(",")) {
      expect("function_name");
      take_word();
      if (tokens_.skip("+")) take_number();
      expect(",");
      expect("inlined_at");
      inlined_at = take_place();
    }
    places_.set(place, inlined_at);
  }

  // ".reg .b32 %r<10>" or ".reg .pred p, q"
  void parse_registers() {
    const int width = bits(take_word());
    do {
      const std::string name = take_word();
      const Register first{kFirstRegister + num_registers_, width};
      if (tokens_.skip("<")) {
        const int count = static_cast<int>(take_number());
        expect(">");
        names_.declare_registers(name, first, count);
        num_registers_ += count;
      } else {
        names_.declare_register(name, first);
        ++num_registers_;
      }
    } while (tokens_.skip(","));
    expect(";");
    if (kFirstRegister + num_registers_ > INT16_MAX) fail("too many registers");
  }

  // "used_bytes_mask 15", of the load that follows, and advice for ptxas.
  void parse_pragma() {
    const std::string text(take().text);
    constexpr std::string_view kUsedBytes = "used_bytes_mask ";
    if (text.compare(0, kUsedBytes.size(), kUsedBytes) == 0) {
      used_bytes_ = static_cast<uint16_t>(number(text.substr(kUsedBytes.size())));
    } else if (text != "nounroll") {
      fail("unknown pragma " + text);
    }
    expect(";");
  }

  // ---- instructions

  void parse_instruction() {
    expect("@");
    guard_negated_ = tokens_.skip("!");
    const std::string name = take_word();
    const std::optional<Register> found = names_.find_register(name);
    if (!found || found->bits != 1) fail("no predicate: " + name);
    guard_ = static_cast<int16_t>(found->slot);
    parse_instruction(take_word());
    guard_ = kNone;
    guard_negated_ = false;
  }

  void parse_instruction(const std::string& opcode) {
    Instruction i{};
    i.line = line_;
    i.guard = guard_;
    i.guard_negated = guard_negated_;
    i.site = places_.site();
    i.wait = places_.wait();
    i.what = i.wait.file ? Class::kWait : class_of(opcode);
    if (opcode == "call" || opcode == "call.uni") {
      i.work = work_of(opcode);
      parse_call(i, opcode);
    } else {
      parse_operands(i, opcode);
    }
    expect(";");
    module_->code.push_back(i);
  }

  // "call (result), name, (a, b)", with names of memory.
  void parse_call(Instruction& i, const std::string& opcode) {
    i.execute = opcodes().at(opcode).execute;
    const auto parse_list = [&] {
      std::vector<int64_t> offsets;
      while (!tokens_.skip(")")) {
        const std::string name = take_word();
        const std::optional<Symbol> symbol = names_.find_symbol(name);
        if (!symbol || symbol->base != kFrameBase) fail("no parameter " + name);
        offsets.push_back(symbol->offset);
        tokens_.skip(",");
      }
      return offsets;
    };
    std::vector<int64_t> results, arguments;
    if (tokens_.skip("(")) {
      results = parse_list();
      expect(",");
    }
    const std::string name = take_word();
    const auto number = function_numbers_.find(name);
    if (number == function_numbers_.end()) fail("no function " + name);
    if (tokens_.skip(",")) {
      expect("(");
      arguments = parse_list();
    }
    const Function& function = module_->functions[number->second];
    if (arguments.size() != function.parameters.size() || results.size() != function.results.size())
      fail(name + " is called with another number of arguments or results");
    i.target = static_cast<int32_t>(module_->calls.size());
    module_->calls.push_back({number->second, arguments, results});
  }

  Places places_;
  std::unordered_map<std::string, int> function_numbers_;
  int num_registers_ = 0;  // of the function
  int64_t frame_top_ = 0;
  std::unordered_map<std::string, int> labels_;
  int16_t guard_ = kNone;
  bool guard_negated_ = false;
};

}  // namespace

std::unique_ptr<Module> parse(const std::string& name, const std::string& text) { return Parser(name, text).run(); }

}  // namespace sim::ptx
