#include "backbones/exported/symbols.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <unordered_map>

#include "error.h"

namespace le {

namespace {

using c10::IValue;
using Arguments = std::vector<IValue>;

[[noreturn]] void wrong(const char* wanted) {
  fail(code::kShape, "Expected ", wanted, " in the network's computation of sizes but received something else: the ",
       "input's size does not suit the network.");
}

const IValue& at(const Arguments& arguments, size_t i) {
  if (i >= arguments.size()) wrong("one more argument");
  return arguments[i];
}
bool integral(const IValue& value) { return value.isInt() || value.isBool(); }
int64_t integer(const IValue& value) {
  if (value.isInt()) return value.toInt();
  if (value.isBool()) return value.toBool();
  wrong("an integer");
}
double real(const IValue& value) {
  if (value.isDouble()) return value.toDouble();
  return static_cast<double>(integer(value));
}
bool truth(const IValue& value) {
  if (value.isBool()) return value.toBool();
  return value.isDouble() ? value.toDouble() != 0 : integer(value) != 0;
}
bool both_integral(const Arguments& a) { return integral(at(a, 0)) && integral(at(a, 1)); }

int64_t to_integer(double value) {
  if (!(value >= -0x1p63 && value < 0x1p63)) wrong("a number within 64 bits");
  return static_cast<int64_t>(value);
}

IValue add(const Arguments& a) {
  if (!both_integral(a)) return real(at(a, 0)) + real(at(a, 1));
  int64_t result;
  if (__builtin_add_overflow(integer(a[0]), integer(a[1]), &result)) wrong("a sum within 64 bits");
  return result;
}
IValue sub(const Arguments& a) {
  if (!both_integral(a)) return real(at(a, 0)) - real(at(a, 1));
  int64_t result;
  if (__builtin_sub_overflow(integer(a[0]), integer(a[1]), &result)) wrong("a difference within 64 bits");
  return result;
}
IValue mul(const Arguments& a) {
  if (!both_integral(a)) return real(at(a, 0)) * real(at(a, 1));
  int64_t result;
  if (__builtin_mul_overflow(integer(a[0]), integer(a[1]), &result)) wrong("a product within 64 bits");
  return result;
}
void check_divisor(const Arguments& a) {
  if (real(at(a, 1)) == 0) wrong("a divisor other than zero");
  if (both_integral(a) && integer(a[1]) == -1 && integer(a[0]) == std::numeric_limits<int64_t>::min())
    wrong("a quotient within 64 bits");
}
// Python rounds towards minus infinity, and the remainder has the divisor's sign.
IValue floordiv(const Arguments& a) {
  check_divisor(a);
  if (!both_integral(a)) return std::floor(real(a[0]) / real(a[1]));
  const int64_t n = integer(a[0]), d = integer(a[1]), quotient = n / d;
  return n % d != 0 && (n < 0) != (d < 0) ? quotient - 1 : quotient;
}
IValue mod(const Arguments& a) {
  check_divisor(a);
  if (!both_integral(a)) {
    const double d = real(a[1]), remainder = std::fmod(real(a[0]), d);
    return remainder != 0 && (remainder < 0) != (d < 0) ? remainder + d : remainder;
  }
  const int64_t d = integer(a[1]), remainder = integer(a[0]) % d;
  return remainder != 0 && (remainder < 0) != (d < 0) ? remainder + d : remainder;
}
IValue truediv(const Arguments& a) {
  check_divisor(a);
  return real(a[0]) / real(a[1]);
}
IValue power(const Arguments& a) {
  if (!both_integral(a) || integer(a[1]) < 0) return std::pow(real(at(a, 0)), real(at(a, 1)));
  const int64_t base = integer(a[0]);
  int64_t result = 1, exponent = integer(a[1]);
  if (base == 0 || base == 1 || base == -1) return exponent == 0 ? int64_t{1} : exponent % 2 ? base : base * base;
  while (exponent-- > 0)
    if (__builtin_mul_overflow(result, base, &result)) wrong("a power within 64 bits");
  return result;
}
IValue neg(const Arguments& a) {
  if (!integral(at(a, 0))) return -real(a[0]);
  if (integer(a[0]) == std::numeric_limits<int64_t>::min()) wrong("a number within 64 bits");
  return -integer(a[0]);
}
IValue pos(const Arguments& a) { return integral(at(a, 0)) ? IValue(integer(a[0])) : IValue(real(a[0])); }
IValue absolute(const Arguments& a) {
  return integral(at(a, 0)) ? (integer(a[0]) < 0 ? neg(a) : pos(a)) : IValue(std::abs(real(a[0])));
}

int compare(const Arguments& a) {
  if (both_integral(a)) return integer(a[0]) < integer(a[1]) ? -1 : integer(a[0]) > integer(a[1]);
  return real(at(a, 0)) < real(at(a, 1)) ? -1 : real(a[0]) > real(a[1]);
}
bool unordered(const Arguments& a) { return std::isnan(real(at(a, 0))) || std::isnan(real(at(a, 1))); }
IValue eq(const Arguments& a) { return !unordered(a) && compare(a) == 0; }
IValue ne(const Arguments& a) { return unordered(a) || compare(a) != 0; }
IValue lt(const Arguments& a) { return !unordered(a) && compare(a) < 0; }
IValue le(const Arguments& a) { return !unordered(a) && compare(a) <= 0; }
IValue gt(const Arguments& a) { return !unordered(a) && compare(a) > 0; }
IValue ge(const Arguments& a) { return !unordered(a) && compare(a) >= 0; }

template <class Operation>
IValue bitwise(const Arguments& a, Operation operation) {
  if (at(a, 0).isBool() && at(a, 1).isBool()) return operation(int64_t{a[0].toBool()}, int64_t{a[1].toBool()}) != 0;
  return operation(integer(at(a, 0)), integer(at(a, 1)));
}
IValue and_(const Arguments& a) {
  return bitwise(a, [](int64_t x, int64_t y) { return x & y; });
}
IValue or_(const Arguments& a) {
  return bitwise(a, [](int64_t x, int64_t y) { return x | y; });
}
IValue xor_(const Arguments& a) {
  return bitwise(a, [](int64_t x, int64_t y) { return x ^ y; });
}
IValue invert(const Arguments& a) { return ~integer(at(a, 0)); }
IValue not_(const Arguments& a) { return !truth(at(a, 0)); }
IValue lshift(const Arguments& a) {
  const int64_t by = integer(at(a, 1));
  if (by < 0 || by > 62) wrong("a shift of 0 to 62");
  return mul({at(a, 0), int64_t{1} << by});
}
IValue rshift(const Arguments& a) {
  const int64_t by = integer(at(a, 1));
  if (by < 0) wrong("a shift that is not negative");
  return integer(at(a, 0)) >> std::min<int64_t>(by, 63);
}

IValue trunc(const Arguments& a) { return integral(at(a, 0)) ? integer(a[0]) : to_integer(std::trunc(real(a[0]))); }
IValue floor(const Arguments& a) { return integral(at(a, 0)) ? integer(a[0]) : to_integer(std::floor(real(a[0]))); }
IValue ceil(const Arguments& a) { return integral(at(a, 0)) ? integer(a[0]) : to_integer(std::ceil(real(a[0]))); }
// To even, as Python does and as nearbyint does in the default mode.
IValue round(const Arguments& a) {
  if (a.size() > 1 && !a[1].isNone()) {
    const double scale = std::pow(10.0, static_cast<double>(integer(a[1])));
    return std::nearbyint(real(a[0]) * scale) / scale;
  }
  return integral(at(a, 0)) ? integer(a[0]) : to_integer(std::nearbyint(real(a[0])));
}
IValue to_real(const Arguments& a) { return real(at(a, 0)); }
IValue to_bool(const Arguments& a) { return truth(at(a, 0)); }
IValue select(const Arguments& a) { return truth(at(a, 0)) ? at(a, 1) : at(a, 2); }
IValue maximum(const Arguments& a) {
  const bool second = compare({at(a, 1), at(a, 0)}) > 0;
  return both_integral(a) ? a[second] : IValue(real(a[second]));
}
IValue minimum(const Arguments& a) {
  const bool second = compare({at(a, 1), at(a, 0)}) < 0;
  return both_integral(a) ? a[second] : IValue(real(a[second]));
}
IValue sum(const Arguments& a) {
  if (!at(a, 0).isList()) wrong("a list");
  IValue total = int64_t{0};
  for (const IValue& item : a[0].toListRef()) total = add({total, item});
  return total;
}
template <double (*function)(double)>
IValue unary(const Arguments& a) {
  return function(real(at(a, 0)));
}
double square_root(double x) {
  if (x < 0) wrong("a number that is not negative");
  return std::sqrt(x);
}

const at::Tensor& tensor(const Arguments& a) {
  if (!at(a, 0).isTensor() || !a[0].toTensor().defined()) wrong("a tensor");
  return a[0].toTensor();
}
int64_t axis(const Arguments& a) {
  const int64_t rank = tensor(a).dim(), dim = integer(at(a, 1));
  if (dim < -rank || dim >= rank) wrong("an axis of the tensor");
  return dim < 0 ? dim + rank : dim;
}
IValue size(const Arguments& a) { return tensor(a).size(axis(a)); }
IValue stride(const Arguments& a) { return tensor(a).stride(axis(a)); }
IValue numel(const Arguments& a) { return tensor(a).numel(); }
IValue storage_offset(const Arguments& a) { return tensor(a).storage_offset(); }
IValue check(const Arguments& a) {
  if (!truth(at(a, 0)))
    fail(code::kShape, "Expected an input that the exported network allows but received one for which this is false: ",
         a.size() > 1 && a[1].isString() ? a[1].toStringRef() : "a condition of the network", ".");
  return {};
}

}  // namespace

Symbolic symbolic(const std::string& target) {
  static const std::unordered_map<std::string, Symbolic> known = {
      {"_operator.add", add},
      {"_operator.sub", sub},
      {"_operator.mul", mul},
      {"_operator.floordiv", floordiv},
      {"_operator.mod", mod},
      {"_operator.truediv", truediv},
      {"_operator.pow", power},
      {"_operator.neg", neg},
      {"_operator.pos", pos},
      {"_operator.abs", absolute},
      {"_operator.eq", eq},
      {"_operator.ne", ne},
      {"_operator.lt", lt},
      {"_operator.le", le},
      {"_operator.gt", gt},
      {"_operator.ge", ge},
      {"_operator.and_", and_},
      {"_operator.or_", or_},
      {"_operator.xor", xor_},
      {"_operator.invert", invert},
      {"_operator.not_", not_},
      {"_operator.lshift", lshift},
      {"_operator.rshift", rshift},
      {"math.trunc", trunc},
      {"math.floor", floor},
      {"math.ceil", ceil},
      {"math.sqrt", unary<square_root>},
      {"math.exp", unary<std::exp>},
      {"math.log", unary<std::log>},
      {"math.log2", unary<std::log2>},
      {"builtins.round", round},
      {"builtins.int", trunc},
      {"builtins.float", to_real},
      {"builtins.bool", to_bool},
      {"builtins.abs", absolute},
      {"builtins.max", maximum},
      {"builtins.min", minimum},
      {"builtins.pow", power},
      {"torch.sym_int", trunc},
      {"torch.sym_float", to_real},
      {"torch.sym_not", not_},
      {"torch.sym_ite", select},
      {"torch.sym_max", maximum},
      {"torch.sym_min", minimum},
      {"torch.sym_sum", sum},
      {"torch.sym_sqrt", unary<square_root>},
      {"torch._sym_sqrt", unary<square_root>},
      {"torch._sym_log2", unary<std::log2>},
      {"torch.ops.aten.sym_size.int", size},
      {"torch.ops.aten.sym_stride.int", stride},
      {"torch.ops.aten.sym_numel.default", numel},
      {"torch.ops.aten.sym_storage_offset.default", storage_offset},
      {"torch.ops.aten._assert_scalar.default", check},
  };
  const auto found = known.find(target);
  if (found != known.end()) return found->second;
  // The functions of torch/__init__.py name themselves by the module that defines them.
  if (target.starts_with("torch.sym_") || target.starts_with("torch._sym_")) {
    const auto again = known.find("torch._" + target.substr(target.find("sym_")));
    if (again != known.end()) return again->second;
  }
  return nullptr;
}

}  // namespace le
