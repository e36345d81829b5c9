// The table's part that computes. Operands and their widths are read off the functions' own types.
#include "arithmetic.h"

#include <utility>

#include "lane.h"
#include "opcodes.h"

namespace sim::ptx {
namespace {

template <class T>
constexpr int width = std::is_same_v<T, bool> ? 1 : kBits<T>;

template <auto function>
struct Of;
template <class D, class... S, D (*function)(S...)>
struct Of<function> {
  static void execute(Lane& lane, const Instruction& i) { apply(lane, i, std::index_sequence_for<S...>()); }
  template <size_t... n>
  static void apply(Lane& lane, const Instruction& i, std::index_sequence<n...>) {
    lane.put(i.operand[0], function(lane.get<S>(i, i.operand[n + 1])...));
  }
  static Opcode opcode() { return {execute, {value(width<D>), value(width<S>)...}}; }
};
template <auto function>
Opcode of() {
  return Of<function>::opcode();
}

template <class T>
void add_comparisons(Opcodes& table, const std::string& type) {
  table["setp.eq." + type] = of<eq<T>>();
  table["setp.ne." + type] = of<ne<T>>();
  table["setp.lt." + type] = of<lt<T>>();
  table["setp.le." + type] = of<le<T>>();
  table["setp.gt." + type] = of<gt<T>>();
  table["setp.ge." + type] = of<ge<T>>();
  table["min." + type] = of<min<T>>();
  table["max." + type] = of<max<T>>();
}

template <class T>
void add_integers(Opcodes& table, const std::string& type) {
  add_comparisons<T>(table, type);
  table["add." + type] = of<add<T>>();
  table["sub." + type] = of<sub<T>>();
  table["mul.lo." + type] = of<mul<T>>();
  table["mad.lo." + type] = of<mad<T>>();
  table["div." + type] = of<div<T>>();
  table["rem." + type] = of<rem<T>>();
  table["shr." + type] = of<shr<T>>();
  if constexpr (std::is_signed_v<T>) {
    table["neg." + type] = of<neg<T>>();
    table["abs." + type] = of<abs<T>>();
  }
}

template <class T>
void add_bits(Opcodes& table, const std::string& type) {
  table["and." + type] = of<bit_and<T>>();
  table["or." + type] = of<bit_or<T>>();
  table["xor." + type] = of<bit_xor<T>>();
  table["not." + type] = of<bit_not<T>>();
  if constexpr (sizeof(T) > 1) {
    table["shl." + type] = of<shl<T>>();
    table["shr." + type] = of<shr<T>>();
    table["setp.eq." + type] = of<eq<T>>();
    table["setp.ne." + type] = of<ne<T>>();
  }
  if constexpr (sizeof(T) > 2) table["bfi." + type] = of<bfi<T>>();
}

template <class T>
void add_floats(Opcodes& table, const std::string& type) {
  add_comparisons<T>(table, type);
  for (const char* rounding : {"", "rn."}) {
    table["add." + (rounding + type)] = of<add<T>>();
    table["sub." + (rounding + type)] = of<sub<T>>();
    table["mul." + (rounding + type)] = of<mul<T>>();
  }
  table["fma.rn." + type] = of<fma<T>>();
  table["div.rn." + type] = of<quotient<T>>();
  table["rcp.rn." + type] = of<rcp<T>>();
  table["sqrt.rn." + type] = of<sqrt<T>>();
  table["neg." + type] = of<neg<T>>();
  table["abs." + type] = of<abs<T>>();
  table["copysign." + type] = of<copysign<T>>();
  table["setp.equ." + type] = of<equ<T>>();
  table["setp.neu." + type] = of<neu<T>>();
  table["setp.ltu." + type] = of<ltu<T>>();
  table["setp.leu." + type] = of<leu<T>>();
  table["setp.gtu." + type] = of<gtu<T>>();
  table["setp.geu." + type] = of<geu<T>>();
  table["setp.nan." + type] = of<is_nan<T>>();
  table["setp.num." + type] = of<is_num<T>>();
}

template <class D, class S>
void add_conversion(Opcodes& table, const std::string& name) {
  Opcode& opcode = table["cvt." + name] = of<convert<D, S>>();
  opcode.forms[1].may_be_wider = true;
}
template <class D>
void add_conversions_to(Opcodes& table, const std::string& to) {
  add_conversion<D, int16_t>(table, to + ".s16");
  add_conversion<D, uint16_t>(table, to + ".u16");
  add_conversion<D, int32_t>(table, to + ".s32");
  add_conversion<D, uint32_t>(table, to + ".u32");
  add_conversion<D, int64_t>(table, to + ".s64");
  add_conversion<D, uint64_t>(table, to + ".u64");
}

// Moves take and hand on registers that nobody wrote: the compiler moves what may turn out not to be needed.
void move(Lane& lane, const Instruction& i) { lane.slots[i.operand[0]] = lane.slots[i.operand[1]]; }
void select(Lane& lane, const Instruction& i) {
  lane.slots[i.operand[0]] = lane.slots[i.operand[lane.get<bool>(i, i.operand[3]) ? 1 : 2]];
}
void take_address(Lane& lane, const Instruction& i) { lane.put(i.operand[0], lane.pointer(i, 1)); }

template <class Whole, class Part>
void pack(Lane& lane, const Instruction& i) {
  Whole whole = 0;
  for (int n = 0; n < kBits<Whole> / kBits<Part>; ++n)
    whole |= static_cast<Whole>(static_cast<Whole>(lane.get<Part>(i, i.operand[n + 1])) << kBits<Part> * n);
  lane.put(i.operand[0], whole);
}
template <class Whole, class Part>
void unpack(Lane& lane, const Instruction& i) {
  constexpr int kParts = kBits<Whole> / kBits<Part>;
  const Whole whole = lane.get<Whole>(i, i.operand[kParts]);
  for (int n = 0; n < kParts; ++n)
    if (i.operand[n] != kNone) lane.put(i.operand[n], static_cast<Part>(whole >> kBits<Part> * n));
}
template <class Whole, class Part>
void add_packing(Opcodes& table) {
  constexpr int kParts = kBits<Whole> / kBits<Part>;
  const std::string name = "mov.b" + std::to_string(kBits<Whole>), parts = std::to_string(kParts);
  const Form many{Form::Kind::kValue, kBits<Part>, kParts}, one = value(kBits<Whole>);
  table[name + " pack " + parts] = {pack<Whole, Part>, {one, many}};
  table[name + " unpack " + parts] = {unpack<Whole, Part>, {many, one}};
  table[name + " unpack " + parts].forms[0].may_be_nothing = true;
}

}  // namespace

void add_arithmetic(Opcodes& table) {
  add_integers<int16_t>(table, "s16");
  add_integers<uint16_t>(table, "u16");
  add_integers<int32_t>(table, "s32");
  add_integers<uint32_t>(table, "u32");
  add_integers<int64_t>(table, "s64");
  add_integers<uint64_t>(table, "u64");
  add_bits<bool>(table, "pred");
  add_bits<uint16_t>(table, "b16");
  add_bits<uint32_t>(table, "b32");
  add_bits<uint64_t>(table, "b64");
  add_floats<float>(table, "f32");
  add_floats<double>(table, "f64");
  table["mul.hi.s32"] = of<mul_hi<int32_t>>();
  table["mul.hi.u32"] = of<mul_hi<uint32_t>>();
  table["mul.wide.s16"] = of<mul_wide<int32_t, int16_t>>();
  table["mul.wide.u16"] = of<mul_wide<uint32_t, uint16_t>>();
  table["mul.wide.s32"] = of<mul_wide<int64_t, int32_t>>();
  table["mul.wide.u32"] = of<mul_wide<uint64_t, uint32_t>>();
  table["mad.wide.s32"] = of<mad_wide<int64_t, int32_t>>();
  table["mad.wide.u32"] = of<mad_wide<uint64_t, uint32_t>>();
  table["bfe.u32"] = of<bfe<uint32_t>>();
  table["bfe.u64"] = of<bfe<uint64_t>>();
  table["prmt.b32"] = of<prmt>();
  table["fma.rm.f32"] = of<fma_down>();
  table["ex2.approx.ftz.f32 inline"] = of<exp2_approximate>();
  table["ex2.approx.ftz.f32"] = of<ex2_ftz>();
  table["tanh.approx.f32"] = of<tanh_approximate>();
  table["rcp.approx.ftz.f32 inline"] = of<reciprocal_approximate>();
  table["rcp.approx.ftz.f32"] = of<rcp_ftz>();
  table["rcp.approx.ftz.f64"] = of<rcp_upper_half>();
}

void add_conversions(Opcodes& table) {
  add_conversions_to<int16_t>(table, "s16");
  add_conversions_to<uint16_t>(table, "u16");
  add_conversions_to<int32_t>(table, "s32");
  add_conversions_to<uint32_t>(table, "u32");
  add_conversions_to<int64_t>(table, "s64");
  add_conversions_to<uint64_t>(table, "u64");
  add_conversions_to<float>(table, "rn.f32");
  add_conversions_to<double>(table, "rn.f64");
  table["cvt.f64.f32"] = of<convert<double, float>>();
  table["cvt.rn.f32.f64"] = of<convert<float, double>>();
  table["cvt.sat.f32.f32"] = of<saturate>();
  table["cvt.rni.f32.f32"] = of<round_to_integer<float>>();
  table["cvt.rni.f64.f64"] = of<round_to_integer<double>>();
  table["cvt.f32.f16"] = of<float16_to_float>();
  table["cvt.rn.f16.f32"] = of<float_to_float16>();
  table["cvt.f32.bf16"] = of<bfloat16_to_float>();
  table["cvt.rn.bf16.f32"] = of<float_to_bfloat16>();
  table["cvt.rn.f16x2.f32"] = of<two<float_to_float16>>();
  table["cvt.rn.bf16x2.f32"] = of<two<float_to_bfloat16>>();
  table["cvt.rna.tf32.f32"] = of<to_tf32>();
}

void add_moves(Opcodes& table) {
  table["mov.pred"] = {move, {value(1), value(1)}};
  for (const int bits : {16, 32, 64}) {
    for (const char* type : {"b", "u", "s", "f"}) {
      const std::string name = type + std::to_string(bits);
      table["mov." + name] = {move, {value(bits), value(bits)}};
      table["selp." + name] = {select, {value(bits), value(bits), value(bits), value(1)}};
    }
  }
  for (const char* type : {"b64", "u64"})
    table[std::string("mov.") + type + " address"] = {take_address, {value(64), address(64)}};
  for (const char* type : {"b32", "u32"})
    table[std::string("mov.") + type + " address"] = {take_address, {value(32), address(32)}};
  // Generic addresses are those of global and of the thread's own memory, which are the host's.
  for (const char* name : {"cvta.to.global.u64", "cvta.global.u64", "cvta.local.u64", "cvta.to.local.u64"})
    table[name] = {move, {value(64), value(64)}};
  add_packing<uint32_t, uint16_t>(table);
  add_packing<uint64_t, uint16_t>(table);
  add_packing<uint64_t, uint32_t>(table);
}

}  // namespace sim::ptx
