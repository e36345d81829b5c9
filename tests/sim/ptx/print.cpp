#include "print.h"

#include <map>

namespace sim::ptx {
namespace {

std::map<int, std::string> last;  // by Thread::number

template <class T>
T next(const char*& arguments) {
  const uintptr_t at = reinterpret_cast<uintptr_t>(arguments), size = sizeof(T);
  const char* const from = reinterpret_cast<const char*>((at + size - 1) / size * size);
  arguments = from + size;
  T value;
  std::memcpy(&value, from, sizeof value);
  return value;
}

}  // namespace

void print(const Lane& lane, const Instruction& i, const char* format, const char* arguments) {
  std::string text;
  for (; *format; ++format) {
    if (*format != '%') {
      if (*format != '\n') text += *format;
      continue;
    }
    switch (*++format) {
      case 'u':
        text += std::to_string(next<uint32_t>(arguments));
        break;
      case 'd':
        text += std::to_string(next<int32_t>(arguments));
        break;
      case 's':
        text += next<const char*>(arguments);
        break;
      default:
        fault(lane, i, std::string("prints by %") + *format);
    }
  }
  last[self->number] = text;
}

std::string printed(const Thread& thread) {
  const auto found = last.find(thread.number);
  return found == last.end() ? "" : found->second;
}
void forget_printed() { last.clear(); }

}  // namespace sim::ptx
