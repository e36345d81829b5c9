#include "kernels.h"

#include <cxxabi.h>
#include <dlfcn.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <sstream>

#include "lane.h"
#include "print.h"
#include "timing.h"

namespace sim::ptx {
namespace {

struct Kernel {
  const Module* module;
  const Function* function;
};
struct Library {
  std::vector<std::unique_ptr<Module>> modules;
  std::map<std::string, Kernel> kernels;  // by key
};

const Library* library = nullptr;
struct Launched {
  std::string kernel;
  int64_t threads;
};
std::vector<Launched> launched;

// What g++ and nvcc agree on: a function's name and its template arguments, but not how to mangle its parameters.
std::string key(const char* mangled) {
  int status = 0;
  const std::unique_ptr<char, decltype(&std::free)> name(abi::__cxa_demangle(mangled, nullptr, nullptr, &status),
                                                         std::free);
  const std::string text = status == 0 ? name.get() : mangled;
  size_t end = text.size();
  for (int depth = 0; end > 0;) {  // template arguments may have parentheses, too
    const char c = text[--end];
    if (c == ')') ++depth;
    if (c == '(' && --depth == 0) break;
  }
  return text.substr(0, end ? end : text.size());
}

Library load(const std::string& folder) {
  Library made;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    if (entry.path().extension() != ".ptx") continue;
    std::stringstream text;
    text << std::ifstream(entry.path()).rdbuf();
    made.modules.push_back(parse(entry.path().filename(), text.str()));
    const Module& module = *made.modules.back();
    for (const Function& function : module.functions) {
      if (!function.is_kernel) continue;
      if (!made.kernels.try_emplace(key(function.name.c_str()), Kernel{&module, &function}).second)
        throw Fault("two kernels " + function.name);
    }
  }
  return made;
}

// By its address, which has to have a name that the dynamic linker knows.
const Kernel& find(const void* kernel) {
  static std::map<const void*, std::string> keys;
  std::string& name = keys[kernel];
  if (name.empty()) {
    Dl_info info{};
    if (!dladdr(kernel, &info) || !info.dli_sname || info.dli_saddr != kernel)
      throw Fault("a kernel whose name the dynamic linker does not know");
    name = key(info.dli_sname);
  }
  const auto found = library->kernels.find(name);
  if (found == library->kernels.end()) throw Fault("no PTX of " + name);
  return found->second;
}

}  // namespace

std::function<void()> compiled(const Shape& shape, const void* kernel, const void* parameters, int64_t bytes) {
  if (!library) return nullptr;
  const auto& [module, function] = find(kernel);
  if (function->parameter_bytes != bytes) throw Fault(function->name + ": parameters of another size");
  if (function->most_threads && shape.threads > function->most_threads)
    throw Fault(function->name + ": a launch with more threads than it was compiled for");
  forget_printed();
  launched.push_back(
      {key(function->name.c_str()), int64_t{shape.blocks.x} * shape.blocks.y * shape.blocks.z * shape.threads});
  return [module = module, function = function, parameters] { run_thread(*module, *function, parameters); };
}

}  // namespace sim::ptx

const char* sim_use_ptx(const char* folder) {
  static std::map<std::string, sim::ptx::Library> libraries;
  static std::string error;
  sim::ptx::library = nullptr;
  if (!*folder) return nullptr;
  try {
    const auto found = libraries.find(folder);
    if (found == libraries.end()) libraries[folder] = sim::ptx::load(folder);
    sim::ptx::library = &libraries[folder];
  } catch (const std::exception& fault) {
    error = fault.what();
    return error.c_str();
  }
  return nullptr;
}

uint64_t sim_executed(int what) { return sim::ptx::executed[what]; }
int64_t sim_num_launched() { return static_cast<int64_t>(sim::ptx::launched.size()); }
const char* sim_launched(int64_t n) { return sim::ptx::launched[n].kernel.c_str(); }
int64_t sim_launched_threads(int64_t n) { return sim::ptx::launched[n].threads; }
void sim_time(bool on) {
  const auto make = []() -> std::unique_ptr<sim::Pace> { return std::make_unique<sim::ptx::Timing>(); };
  sim::set_pace(on ? +make : nullptr);
}
const char* sim_cost(int row) {
  using namespace sim::ptx;
  static std::string text;
  const auto number = [](int cycles) { return cycles ? std::to_string(cycles) : ""; };
  if (row >= kNumWorks + sim::kNumDelays) return nullptr;
  if (row < kNumWorks) {
    const Cost& cost = costs[row];
    text = std::string(cost.what) + "|" + number(cost.slots) + "|" + number(cost.busy) + "|" + number(cost.latency) +
           "|" + cost.source;
  } else {
    const DelayCost& cost = delays[row - kNumWorks];
    text = std::string(cost.what) + "|||" + number(cost.cycles) + "|" + cost.source;
  }
  return text.c_str();
}
int64_t sim_cycles_of(int part) { return sim::ptx::total_time.parts[part]; }
