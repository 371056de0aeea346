#include "files/json.h"

#include <cmath>
#include <limits>

#include "check.h"
#include "error.h"
#include "random.h"

using namespace le;

namespace {

Json parse(std::string_view text) { return Json::parse(text, code::kCheckpoint); }

void check_refused(std::string_view text) {
  try {
    parse(text);
  } catch (const Error& error) {
    CHECK(error.code() == code::kCheckpoint);
    return;
  }
  test::failed(__FILE__, __LINE__, "accepted: ", text);
}

std::string nested(int depth) { return std::string(depth, '[') + std::string(depth, ']'); }

}  // namespace

TEST("json: values survive a round trip") {
  const char* text =
      R"({"a":[1,-2,0.5,1e+300,true,false,null],"big":9223372036854775807,"empty":{},"list":[],"s":"\"\\\u000a\u0001é€😀"})";
  const Json json = parse(text);
  CHECK(json.dump() == text);
  CHECK(parse(json.dump()).dump() == text);
  CHECK(json.at("big").integer("big") == std::numeric_limits<int64_t>::max());
}

TEST("json: numbers") {
  CHECK(parse("-9223372036854775808").integer("x") == std::numeric_limits<int64_t>::min());
  CHECK(parse("9223372036854775808").number("x") == 0x1p63);
  CHECK(parse("0.1").number("x") == 0.1);
  CHECK(parse("1E2").integer("x") == 100);
  CHECK(std::signbit(parse("-0").number("x")));
  CHECK(parse("1e-400").number("x") == 0);
  CHECK_THROWS(parse("9223372036854775808").integer("x"), code::kOption);
  CHECK_THROWS(parse("0.5").integer("x"), code::kOption);
  for (const char* text :
       {"01", "+1", ".5", "1.", "1e", "1e+", "-", "0x10", "NaN", "Infinity", "1e400", "-1e999", "1 2"})
    check_refused(text);
  CHECK(Json(std::numeric_limits<double>::quiet_NaN()).dump() == "null");
  for (const double value : {0.1, 1.0 / 3, 5e-324, 1.7976931348623157e308, -123456.789})
    CHECK(parse(Json(value).dump()).number("x") == value);
}

TEST("json: strings") {
  CHECK(parse(R"("\u00e9\u20ac\ud83d\ude00\/\b\f")").string("x") == "é€😀/\b\f");
  for (const char* text :
       {R"("\ud83d")", R"("\ude00")", R"("\ud83dx")", R"("\ud83d\u0041")", R"("\u12g4")", R"("\x")", R"(")", R"("\)",
        "\"\n\"", "\"\xff\"", "\"\xc0\x80\"", "\"\xed\xa0\x80\"", "\"\xf5\x80\x80\x80\"", "\"\xe2\x82\"", "\"\xe2"})
    check_refused(text);
  check_refused(std::string_view("\"\0\"", 3));
}

TEST("json: structure") {
  for (const char* text : {"", " ", "{", "[", "[1,]", "{\"a\":1,}", "{\"a\"}", "{a:1}", "{\"a\":1 \"b\":2}", "[1 2]",
                           "tru", "nul", "truex", "[]]", "{\"a\":1,\"a\":2}", "'a'", "//", "\xef\xbb\xbf{}"})
    check_refused(text);
  CHECK(parse(" \t\r\n{ \"a\" : [ ] } ").at("a").array("a").empty());
}

TEST("json: nesting is limited, so that the stack cannot run out") {
  CHECK(parse(nested(64)).is_array());
  check_refused(nested(66));
  check_refused(nested(1'000'000));
  check_refused(std::string(1'000'000, '['));
}

TEST("json: a damaged text is refused or still means something, and never crashes") {
  const std::string good = R"({"weight":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},"x":"\u00e9","n":-1.5e3})";
  Random random(1, 2);
  int refused = 0;
  for (int i = 0; i < 20000; ++i) {
    std::string text = good;
    for (uint64_t n = 1 + random.below(3); n > 0; --n) {
      const size_t at = random.below(text.size());
      if (random.chance(0.5))
        text[at] = static_cast<char>(random.below(256));
      else if (random.chance(0.5))
        text.erase(at, 1 + random.below(4));
      else
        text.insert(at, text.substr(random.below(text.size()), random.below(8)));
    }
    try {
      const Json json = parse(text);
      CHECK(parse(json.dump()).dump() == json.dump());
    } catch (const Error& error) {
      CHECK(error.code() == code::kCheckpoint);
      ++refused;
    }
  }
  CHECK(refused > 10000);
}

TEST("json: typed access names the option and what came") {
  const Json json = parse(R"({"epochs":"many","list":[1,2],"none":null,"f":2.0})");
  std::string message;
  try {
    json.integer_or("epochs", 1);
  } catch (const Error& error) {
    message = error.what();
  }
  CHECK(message == "Expected an integer for option 'epochs' but received a string.");
  CHECK_THROWS(json.at("missing"), code::kOption);
  CHECK_THROWS(json.boolean_or("f", true), code::kOption);
  CHECK_THROWS(json.strings_or("list", {}), code::kOption);
  CHECK_THROWS(json.at("list").object("list"), code::kOption);
  CHECK(json.integer_or("f", 0) == 2);
  CHECK(!json.has("none") && !json.has("missing") && json.integer_or("none", 7) == 7);
  CHECK((json.integers_or("list", {}) == std::vector<int64_t>{1, 2}));
  CHECK((json.numbers_or("list", {}) == std::vector<double>{1, 2}));
}
