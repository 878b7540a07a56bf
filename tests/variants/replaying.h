// Recorded calls of plain C functions: calls from standard input, results to standard output. A call is the function's
// name, the number of its arguments, and these in order: numbers in 8 bytes, what is read as its size, the number of
// bytes by which its address is no multiple of 16, and its bytes, what is written as these two numbers alone. What is
// read ends where its memory ends, so that a sanitizer sees the first byte that is read behind it. What is written lies
// between bytes that are looked at afterwards: sanitizers do not see stores past the caches, nor those of parts of
// vectors.
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <tuple>

namespace replaying {

[[noreturn]] inline void Fail(const std::string& message) {
  std::fprintf(stderr, "replay: %s\n", message.c_str());
  std::exit(1);
}

inline void Read(void* into, size_t size) {
  if (std::fread(into, 1, size, stdin) != size) Fail("the calls end in the middle of one");
}

template <typename T>
T ReadNumber() {
  T number;
  Read(&number, sizeof number);
  return number;
}

class Buffer {
 public:
  // With so many bytes in front and behind that must stay as they are.
  explicit Buffer(size_t guard)
      : size_(static_cast<size_t>(ReadNumber<int64_t>())),
        front_(guard + static_cast<size_t>(ReadNumber<int64_t>())),
        back_(guard),
        bytes_(new unsigned char[front_ + size_ + back_]) {
    std::memset(bytes_.get(), kUntouched, front_ + size_ + back_);
    std::memset(get(), 0xff, size_);  // what a kernel forgets to write is seen
  }
  void Fill() { Read(get(), size_); }
  unsigned char* get() const { return bytes_.get() + front_; }
  void Write() const {
    for (size_t i = 0; i < front_; ++i) CheckUntouched(bytes_[i]);
    for (size_t i = 0; i < back_; ++i) CheckUntouched(get()[size_ + i]);
    if (std::fwrite(get(), 1, size_, stdout) != size_) Fail("the results cannot be written");
  }

 private:
  static constexpr unsigned char kUntouched = 0xa5;
  static void CheckUntouched(unsigned char byte) {
    if (byte != kUntouched) Fail("a result was written beyond its ends");
  }

  size_t size_, front_, back_;
  std::unique_ptr<unsigned char[]> bytes_;
};

// An argument of a function, by its type.
template <typename T>
struct Argument;
template <>
struct Argument<int> {
  int value = static_cast<int>(ReadNumber<int64_t>());
  int Get() const { return value; }
  void Write() const {}
};
template <>
struct Argument<int64_t> {
  int64_t value = ReadNumber<int64_t>();
  int64_t Get() const { return value; }
  void Write() const {}
};
template <>
struct Argument<double> {
  double value = ReadNumber<double>();
  double Get() const { return value; }
  void Write() const {}
};
// Texts come with their terminating zero.
template <typename T>
struct Argument<const T*> {
  Buffer buffer{0};
  Argument() { buffer.Fill(); }
  const T* Get() const { return reinterpret_cast<const T*>(buffer.get()); }
  void Write() const {}
};
template <typename T>
struct Argument<T*> {
  Buffer buffer{64};
  T* Get() const { return reinterpret_cast<T*>(buffer.get()); }
  void Write() const { buffer.Write(); }
};

template <typename... A>
void Replay(const std::string& name, const char* (*function)(A...)) {
  if (ReadNumber<int64_t>() != sizeof...(A)) Fail(name + " takes another number of arguments");
  std::tuple<Argument<A>...> arguments{Argument<A>()...};  // braces: they are read from left to right
  const char* error = std::apply([&](const auto&... a) { return function(a.Get()...); }, arguments);
  if (error != nullptr) Fail(name + ": " + error);
  std::apply([](const auto&... a) { (a.Write(), ...); }, arguments);
}

// Runs every call of the standard input; by_name(name) does one.
template <typename F>
void ReplayAll(F&& by_name) {
  for (int64_t size; std::fread(&size, 1, sizeof size, stdin) == sizeof size;) {
    std::string name(static_cast<size_t>(size), '\0');
    Read(name.data(), name.size());
    by_name(name);
  }
}

}  // namespace replaying
