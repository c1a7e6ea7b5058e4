// One of every request and answer, with every field set: what describe() names is filled in.
#pragma once

#include <string>
#include <utility>

#include "pool/controller/api/codec.h"
#include "pool/controller/api/forms.h"
#include "pool/controller/api/scalars.h"
#include "pool/controller/api/view_fields.h"

namespace tidepool::pool::controller::testing {

class Filler {
 public:
  void path(std::string_view name, std::string& text) { text = std::string(name) + "-1"; }
  void query(std::string_view name, std::string& text) { text = std::string(name) + " value"; }
  void query(std::string_view, bool& flag) { flag = true; }
  void query(std::string_view, std::uint32_t& number) { number = 17; }
  template <class T>
  void need(std::string_view name, T& field) {
    if constexpr (requires { describe(*this, field); }) {
      describe(*this, field);
    } else {
      set(name, field);
    }
  }
  template <class T>
  void need(std::string_view name, std::vector<T>& list, std::size_t) {
    list.resize(2);
    for (T& each : list) need(name, each);
  }
  template <class T>
  void may(std::string_view name, T& field) {
    need(name, field);
  }
  template <class T>
  void may(std::string_view name, std::optional<T>& field) {
    need(name, field.emplace());
  }
  template <class T>
  void may(std::string_view name, std::vector<T>& list, std::size_t most) {
    need(name, list, most);
  }
  void limit(std::string_view, Bytes& bytes) { bytes = Bytes{next()}; }
  void limit(std::string_view, std::optional<Bytes>& bytes) { bytes = Bytes{next()}; }

 private:
  std::uint64_t next() { return ++count_ * 4096; }
  void set(std::string_view name, std::string& text) { text = std::string(name) + " \"é\" " + std::to_string(next()); }
  void set(std::string_view, bool& flag) { flag = true; }
  void set(std::string_view, double& number) { number = static_cast<double>(next()) + 0.5; }
  void set(std::string_view, std::int64_t& number) { number = static_cast<std::int64_t>(next()); }
  void set(std::string_view, std::uint64_t& number) { number = next(); }
  void set(std::string_view, std::uint32_t& number) { number = static_cast<std::uint32_t>(next()); }
  void set(std::string_view, Bytes& bytes) { bytes = Bytes{next()}; }
  template <std::size_t size>
  void set(std::string_view, std::array<std::uint8_t, size>& bytes) {
    for (auto& byte : bytes) byte = static_cast<std::uint8_t>(++count_);
  }
  template <class Enum>
  requires std::is_enum_v<Enum>
  void set(std::string_view, Enum& value) { value = words_of(value).back().second; }
  void set(std::string_view, SliceId& slice) { slice = static_cast<SliceId>(next()); }
  void set(std::string_view, LeaseEpoch& epoch) { epoch = static_cast<LeaseEpoch>(next()); }

  std::uint64_t count_ = 0;
};

inline Request sample_of(Request kind) {
  std::visit(
      [](auto& request) {
        Filler filler;
        describe(filler, request);
      },
      kind);
  return kind;
}

// The answer that belongs to it.
inline Answer sample_answer_to(const Request& kind) {
  return std::visit(
      [](const auto& request) -> Answer {
        AnswerTo<std::decay_t<decltype(request)>> answer;
        Filler filler;
        describe(filler, answer);
        return answer;
      },
      kind);
}

}  // namespace tidepool::pool::controller::testing
