// program list                        the names of the cases, one a line
// program run <case> <0|1> <seeds>    one line per seed: "ok", "fault: ..." or "wrong: ..."; 1 plants the fault
// program launch <blocks x> <y> <z> <threads> <shared bytes> <cluster> <max_resident_blocks> <together>    see
// launch.cu program convert <function>          numbers from stdin to stdout, see numbers.cu
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "case.h"

namespace cases {
namespace {

std::vector<Case> all_cases() {
  std::vector<Case> cases;
  for (const auto* group : {&kBlockCases, &kWarpCases, &kCopyCases, &kClusterCases, &kMBarrierCases, &kGroupCases}) {
    cases.insert(cases.end(), group->begin(), group->end());
  }
  return cases;
}

std::string outcome(const Case& test, bool broken) {
  try {
    test.run(broken);
    return "ok";
  } catch (const sim::Fault& fault) {
    std::string line = std::string("fault: ") + fault.what();
    for (char& c : line) c = c == '\n' ? '|' : c;
    return line;
  } catch (const std::exception& error) {
    return std::string("wrong: ") + error.what();
  }
}

}  // namespace

int launch_grid(const Grid& grid, int max_resident_blocks);
int convert(const std::string& function);

}  // namespace cases

int main(int argc, char** argv) {
  const std::vector<cases::Case> all = cases::all_cases();
  const std::string command = argc > 1 ? argv[1] : "";
  if (command == "list") {
    for (const cases::Case& test : all) std::puts(test.name);
    return 0;
  }
  if (command == "launch" && argc == 10) {
    const auto number = [&](int i) { return std::atoi(argv[i + 2]); };
    return cases::launch_grid({{number(0), number(1), number(2)}, number(3), number(4), number(5), number(7) != 0},
                              number(6));
  }
  if (command == "convert" && argc == 3) return cases::convert(argv[2]);
  for (const cases::Case& test : all) {
    if (command != "run" || argc != 5 || std::strcmp(argv[2], test.name)) continue;
    for (int seed = 0; seed < std::atoi(argv[4]); ++seed) {
      sim::set_seed(seed);
      std::puts(cases::outcome(test, std::atoi(argv[3])).c_str());
    }
    return 0;
  }
  return 2;
}
