// The table's part that decides what is executed next.
#include "lane.h"
#include "opcodes.h"
#include "print.h"
#include "sim/device.h"

namespace sim::ptx {
namespace {

void branch(Lane& lane, const Instruction& i) { lane.next = lane.module->code.data() + i.target; }

char* frame(const Lane& lane) { return reinterpret_cast<char*>(lane.slots[kFrameBase]); }

void print_arguments(const Lane& lane, const Instruction& i, const Function& vprintf) {
  const char *format, *arguments;
  std::memcpy(&format, frame(lane) + vprintf.parameters[0].offset, sizeof format);
  std::memcpy(&arguments, frame(lane) + vprintf.parameters[1].offset, sizeof arguments);
  print(lane, i, format, arguments);
}

void call(Lane& lane, const Instruction& i) {
  const Call& call = lane.module->calls[i.target];
  const Function& function = lane.module->functions[call.function];
  for (size_t n = 0; n < call.arguments.size(); ++n) {
    const Parameter& to = function.parameters[n];
    std::memcpy(frame(lane) + to.offset, frame(lane) + call.arguments[n], to.bytes);
  }
  if (!function.is_defined) {
    if (function.name != "vprintf") fault(lane, i, "calls " + function.name + ", which nobody has defined");
    return print_arguments(lane, i, function);
  }
  if (lane.depth == kMostCalls) fault(lane, i, "too many calls one within another");
  lane.called_from[lane.depth++] = &i;
  lane.next = lane.module->code.data() + function.begin;
}

void leave(Lane& lane, const Instruction&) {
  lane.next = nullptr;
  if (lane.depth == 0) return;
  const Instruction& i = *lane.called_from[--lane.depth];
  const Call& call = lane.module->calls[i.target];
  const Function& function = lane.module->functions[call.function];
  for (size_t n = 0; n < call.results.size(); ++n) {
    const Parameter& from = function.results[n];
    std::memcpy(frame(lane) + call.results[n], frame(lane) + from.offset, from.bytes);
  }
  lane.next = &i + 1;
}

void trap(Lane& lane, const Instruction& i) {
  const std::string said = printed(*self);
  fault(lane, i, said.empty() ? "trap" : "trap, and before: " + said);
}

// Between two looks at what is waited for.
void sleep(Lane& lane, const Instruction& i) {
  const bool polls = machine->has_pace() || waits_are_watched() || is_skipped(i.site);
  polls ? machine->preempt() : machine->spin(lane.version, i.site);
  lane.version = machine->version();  // a loop that does not look again waits for ever
}

void read_clock(Lane& lane, const Instruction& i) { lane.put(i.operand[0], nanoseconds()); }

}  // namespace

void add_control(Opcodes& table) {
  table["bra"] = table["bra.uni"] = {branch, {{Form::Kind::kLabel}}};
  table["call"] = table["call.uni"] = {call, {}};
  table["ret"] = table["exit"] = {leave, {}};
  table["trap"] = {trap, {}};
  table["nanosleep.u32"] = {sleep, {value(32)}};
  table["mov.u64 %globaltimer"] = {read_clock, {value(64), {Form::Kind::kClock}}};
}

}  // namespace sim::ptx
