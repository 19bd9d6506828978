#include "tests/cuda_on_host/emulator.hpp"

#include <unistd.h>

#include <charconv>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "tests/cuda_on_host/settings.hpp"

namespace coppice::cuda_on_host {
namespace {

struct Failure {
  std::string call;
  int after;
  int status;
  int times;
};
std::vector<Failure>& failures() {
  static auto* const instance = new std::vector<Failure>;
  return *instance;
}

/// Cuts the text up to `separator` off.
std::string_view take(std::string_view& text, char separator) {
  const size_t end = text.find(separator);
  const std::string_view head = text.substr(0, end);
  text = end == std::string_view::npos ? std::string_view() : text.substr(end + 1);
  return head;
}

template <class T>
T parse(const char* variable, std::string_view text) {
  T value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc{} || end != text.data() + text.size())
    fault("environment", "{}: \"{}\" is not a number", variable, text);
  return value;
}

void read_order(std::string_view text, Settings& settings) {
  const std::string_view name = take(text, ':');
  if (name == "forward") {
    settings.order = Order::forward;
  } else if (name == "reverse") {
    settings.order = Order::reverse;
  } else if (name == "random") {
    settings.order = Order::random;
    if (!text.empty()) settings.seed = parse<uint64_t>("COPPICE_CUDA_ORDER", text);
  } else {
    fault("environment", "COPPICE_CUDA_ORDER: \"{}\" is none of forward, reverse, random:SEED", name);
  }
}

void read_failures(std::string_view text) {
  constexpr const char* kVariable = "COPPICE_CUDA_FAIL";
  while (!text.empty()) {
    std::string_view one = take(text, ',');
    const std::string_view call = take(one, ':');
    const int after = parse<int>(kVariable, take(one, ':'));
    const int status = parse<int>(kVariable, take(one, ':'));
    fail_call(call, after, status, one.empty() ? 1 : parse<int>(kVariable, one));
  }
}

Settings* read_environment() {
  auto* const settings = new Settings;
  if (const char* text = std::getenv("COPPICE_CUDA_ORDER")) read_order(text, *settings);
  if (const char* text = std::getenv("COPPICE_CUDA_DEVICES"))
    settings->devices = parse<int>("COPPICE_CUDA_DEVICES", text);
  if (const char* text = std::getenv("COPPICE_CUDA_TOTAL_MEMORY"))
    settings->device_memory = parse<size_t>("COPPICE_CUDA_TOTAL_MEMORY", text);
  if (const char* text = std::getenv("COPPICE_CUDA_MULTIPROCESSORS"))
    settings->multiprocessors = parse<int>("COPPICE_CUDA_MULTIPROCESSORS", text);
  if (const char* text = std::getenv("COPPICE_CUDA_FAIL")) read_failures(text);
  chance().seed(settings->seed);
  return settings;
}

}  // namespace

Settings& settings() {
  static Settings* const instance = read_environment();
  return *instance;
}

Chance& chance() {
  static Chance instance;
  return instance;
}

const char*& running_library_call() {
  static const char* call = nullptr;
  return call;
}

void fault_text(std::string_view kind, std::string_view text) {
  std::string where = describe_running_thread();
  if (running_library_call() != nullptr) where = fmt::format("; in {}", running_library_call());
  fmt::print(stderr, "cuda_on_host: {}: {}{}\n", kind, text, where);
  std::fflush(nullptr);
  _exit(kFaultExitCode);  // destructors would run on a fiber's stack, with the device in disorder
}

void fail_call(std::string_view call, int after, int status, int times) {
  failures().push_back({std::string(call), after, status, times});
}

void fail_nothing() {
  failures().clear();
}

int injected(const char* call) {
  settings();  // the environment may name some
  for (Failure& failure : failures()) {
    if (failure.times == 0 || failure.call != call) continue;
    if (failure.after > 0) {
      --failure.after;
      continue;
    }
    --failure.times;
    return failure.status;
  }
  return 0;
}

void set_order(Order order, uint64_t seed) {
  settings().order = order;
  settings().seed = seed;
  chance().seed(seed);
}

void set_device_count(int devices) {
  settings().devices = devices;
}
void set_device_memory(size_t bytes) {
  settings().device_memory = bytes;
}
void set_multiprocessors(int count) {
  settings().multiprocessors = count;
}

}  // namespace coppice::cuda_on_host
