// program list                  every instruction: its name, a colon, and the bits of its operands; those of an address
//                               are negative
// program compute <opcode> <results> <operands>   numbers of 64 bits from stdin and to stdout
// program parse <file>          "ok", or what is wrong with it
// program run <file> <blocks> <threads> <shared bytes> <cluster> <words> <seeds>
//                               the kernel of the file, whose parameter points to that many words, zeros before: a line
//                               per seed, "ok" and the words, or "fault: ..."
// program time ...              the same, timed: a line per seed, the cycles, and those of each part of the critical
// path
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <sstream>

#include "sim/launch.h"
#include "sim/ptx/kernels.h"
#include "sim/ptx/lane.h"
#include "sim/ptx/opcodes.h"
#include "sim/ptx/timing.h"

namespace sim::ptx {
namespace {

void list() {
  for (const auto& [name, opcode] : opcodes()) {
    std::printf("%s:", name.c_str());
    for (const Form& form : opcode.forms)
      for (int n = 0; n < form.count; ++n)
        std::printf(" %d", form.kind == Form::Kind::kValue ? form.bits : -std::max(form.bits, 1));
    std::printf("\n");
  }
}

void compute(const std::string& name, int num_results, int num_operands) {
  Module module;
  Slot slots[kFirstRegister + kMostOperands] = {};
  Lane lane{};
  lane.module = &module;
  lane.slots = slots;
  const Opcode& opcode = opcodes().at(name);
  Instruction i{};
  i.execute = opcode.execute;
  i.access = opcode.access;
  for (int n = 0; n < kMostOperands; ++n) i.operand[n] = static_cast<int16_t>(kFirstRegister + n);
  while (std::fread(slots + kFirstRegister + num_results, sizeof(Slot), num_operands, stdin) ==
         static_cast<size_t>(num_operands)) {
    i.execute(lane, i);
    std::fwrite(slots + kFirstRegister, sizeof(Slot), num_results, stdout);
  }
}

std::unique_ptr<Module> load(const char* path) {
  std::stringstream text;
  text << std::ifstream(path).rdbuf();
  return parse("kernel.ptx", text.str());
}

std::string run(const Module& module, const Shape& shape, int num_words) {
  struct alignas(64) Line {  // the time that memory takes depends on it
    uint32_t words[16];
  };
  std::vector<Line> lines(num_words / 16 + 1);
  const uint32_t* const words = lines[0].words;
  const void* parameter = words;
  try {
    launch(shape, [&] { run_thread(module, module.functions.back(), &parameter); });
  } catch (const Fault& fault) {
    std::string line = std::string("fault: ") + fault.what();
    for (char& c : line) c = c == '\n' ? '|' : c;
    return line;
  }
  std::string line = "ok";
  for (int n = 0; n < num_words; ++n) line += " " + std::to_string(words[n]);
  return line;
}

}  // namespace
}  // namespace sim::ptx

int main(int argc, char** argv) {
  using namespace sim::ptx;
  const std::string command = argc > 1 ? argv[1] : "";
  const auto number = [&](int n) { return std::atoi(argv[n]); };
  if (command == "list") {
    list();
  } else if (command == "compute" && argc == 5) {
    compute(argv[2], number(3), number(4));
  } else if (command == "parse" && argc == 3) {
    try {
      load(argv[2]);
      std::puts("ok");
    } catch (const sim::Fault& fault) {
      std::puts(fault.what());
    }
  } else if ((command == "run" || command == "time") && argc == 9) {
    const auto module = load(argv[2]);
    const sim::Shape shape{{number(3), 1, 1}, number(4), number(5), number(6), false};
    sim_time(command == "time");
    for (int seed = 0; seed < number(8); ++seed) {
      sim::set_seed(seed);
      total_time = {};
      const std::string said = run(*module, shape, number(7));
      if (command == "run" || said.compare(0, 2, "ok")) {
        std::puts(said.c_str());
        continue;
      }
      std::printf("%d ", static_cast<int>(total_time.at));
      for (const int32_t cycles : total_time.parts) std::printf("%d ", cycles);
      std::puts("");
    }
  } else {
    return 2;
  }
  return 0;
}
