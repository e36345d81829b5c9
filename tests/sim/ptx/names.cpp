#include "names.h"

#include <cctype>
#include <cstring>

namespace sim::ptx {

std::optional<Register> Names::find_register(std::string_view name) const {
  size_t digits = name.size();
  while (digits > 0 && std::isdigit(static_cast<unsigned char>(name[digits - 1]))) --digits;
  const std::string whole(name), prefix(name.substr(0, digits));
  for (auto scope = scopes_.rbegin(); scope != scopes_.rend(); ++scope) {
    if (const auto found = scope->registers.find(whole); found != scope->registers.end()) return found->second;
    const auto range = scope->ranges.find(prefix);
    if (range == scope->ranges.end() || digits == name.size()) continue;
    const int number = std::stoi(whole.substr(digits));
    if (number < range->second.count) return Register{range->second.first.slot + number, range->second.first.bits};
  }
  return {};
}

std::optional<Symbol> Names::find_symbol(std::string_view name) const {
  for (auto scope = scopes_.rbegin(); scope != scopes_.rend(); ++scope)
    if (const auto found = scope->symbols.find(std::string(name)); found != scope->symbols.end()) return found->second;
  return {};
}

void Places::begin_function() {
  callers_.clear();
  here_ = {};
}

void Places::set(const Place& place, const std::optional<Place>& inlined_at) {
  here_ = place;
  if (inlined_at) {
    callers_[place] = *inlined_at;
  } else {
    callers_.erase(place);
  }
}

// The primitives' headers and those of CUDA.
bool Places::is_primitive(const Place& place) const {
  const auto found = files_.find(place.file);
  if (found == files_.end()) return false;
  return std::strstr(found->second, "primitives.cuh") || std::strstr(found->second, "/include/");
}

// From `place` on to the first caller that is no primitive; or past those, to the first primitive.
const Places::Place* Places::outward(const Place* place, bool past_primitives) const {
  constexpr int kMost = 40;  // a template that is inlined in itself has one place for both, and no end
  for (int n = 0; place && is_primitive(*place) == past_primitives; ++n) {
    const auto caller = n < kMost ? callers_.find(*place) : callers_.end();
    place = caller == callers_.end() ? nullptr : &caller->second;
  }
  return place;
}

Site Places::site_of(const Place* place) const {
  const auto file = place ? files_.find(place->file) : files_.end();
  if (file == files_.end()) return {nullptr, 0};
  return {file->second, place->line};
}

Site Places::site() const {
  const Site called = site_of(outward(&here_, true));
  return called.file ? called : Site{"?", 0};
}

Site Places::wait() const { return site_of(outward(outward(outward(&here_, true), false), true)); }

}  // namespace sim::ptx
