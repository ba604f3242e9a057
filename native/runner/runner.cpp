// Times a packed network on the machine that this runs on, and prints one JSON object. `bibench measure` puts it on a
// device and reads what it says; it is one file that needs nothing else there.
//
//   bibench_runner NETWORK THREADS WARM_UP REPEATS
//
// A repeat is as many calls on one sample as last half a millisecond, so that short ones aren't lost in the clock.
// Exit status: 0 when measured; 1 for a network that can't be read or run, a lack of memory, or a reader of the output
// that went away; 2 for wrong arguments.
#include <poll.h>
#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <new>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "bibench.h"

namespace {

constexpr int kMostRepeats = 10000;
constexpr int64_t kLeastNanoseconds = 500000;

struct Failure : std::runtime_error {
  using std::runtime_error::runtime_error;
};

int64_t now() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

std::vector<char> content(const char* path) {
  std::FILE* file = std::fopen(path, "rb");
  if (!file) throw Failure(std::string(path) + ": " + std::strerror(errno));
  std::vector<char> bytes;
  char part[1 << 16];
  for (size_t got; (got = std::fread(part, 1, sizeof part, file)) > 0;) bytes.insert(bytes.end(), part, part + got);
  const bool failed = std::ferror(file) != 0;
  const int why = errno;
  std::fclose(file);
  if (failed) throw Failure(std::string(path) + ": " + std::strerror(why));
  return bytes;
}

// The first line of a file of the system; empty where it can't be read.
std::string line_of(const std::string& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

// What stands behind the colon in the first line that starts with a name; empty where there is none.
std::string entry(const char* path, const char* name) {
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    if (line.compare(0, std::strlen(name), name) != 0) continue;
    const size_t begin = line.find_first_not_of(": \t", std::strlen(name));
    return begin == std::string::npos ? "" : line.substr(begin);
  }
  return "";
}

struct Core {
  long part;
  const char* name;
};

// Arm's own cores of 64 bits, by the part number of the main ID register (Arm's technical reference manuals).
constexpr Core kArmCores[] = {
    {0xd03, "Cortex-A53"},   {0xd04, "Cortex-A35"},  {0xd05, "Cortex-A55"},  {0xd07, "Cortex-A57"},
    {0xd08, "Cortex-A72"},   {0xd09, "Cortex-A73"},  {0xd0a, "Cortex-A75"},  {0xd0b, "Cortex-A76"},
    {0xd0c, "Neoverse-N1"},  {0xd0d, "Cortex-A77"},  {0xd40, "Neoverse-V1"}, {0xd41, "Cortex-A78"},
    {0xd42, "Cortex-A78AE"}, {0xd44, "Cortex-X1"},   {0xd46, "Cortex-A510"}, {0xd47, "Cortex-A710"},
    {0xd48, "Cortex-X2"},    {0xd49, "Neoverse-N2"}, {0xd4d, "Cortex-A715"}, {0xd4e, "Cortex-X3"},
    {0xd4f, "Neoverse-V2"},  {0xd80, "Cortex-A520"}, {0xd81, "Cortex-A720"}, {0xd82, "Cortex-X4"},
    {0xd84, "Neoverse-V3"},  {0xd85, "Cortex-X925"}, {0xd87, "Cortex-A725"}, {0xd8e, "Neoverse-N3"},
};
constexpr long kArm = 0x41;  // the implementer

// The kinds of cores, of which Linux on 64-bit ARM tells numbers only; empty where one of them isn't known.
std::string arm_cores() {
  std::ifstream file("/proc/cpuinfo");
  std::string kinds;
  long implementer = 0;
  for (std::string line; std::getline(file, line);) {
    const size_t colon = line.find(':');
    if (colon == std::string::npos) continue;
    const long value = std::strtol(line.c_str() + colon + 1, nullptr, 16);
    if (line.compare(0, 15, "CPU implementer") == 0) implementer = value;
    if (line.compare(0, 8, "CPU part") != 0) continue;
    const Core* core = std::find_if(std::begin(kArmCores), std::end(kArmCores),
                                    [value](const Core& one) { return one.part == value; });
    if (implementer != kArm || core == std::end(kArmCores)) return "";
    const std::string name = core->name;
    if ((kinds + " + ").find(name + " + ") == std::string::npos) kinds += (kinds.empty() ? "" : " + ") + name;
  }
  return kinds;
}

std::string processor() {
  for (const std::string& found :
       {entry("/proc/cpuinfo", "model name"), arm_cores(), entry("/proc/cpuinfo", "Hardware")})
    if (!found.empty()) return found;
  return line_of("/sys/firmware/devicetree/base/model");
}

// As a JSON string; null where it is empty. What isn't printable ASCII is left out.
std::string quoted(const std::string& text) {
  std::string found;
  for (const char letter : text.substr(0, 200)) {
    if (letter < ' ' || letter > '~') continue;
    if (letter == '"' || letter == '\\') found += '\\';
    found += letter;
  }
  return found.empty() ? "null" : '"' + found + '"';
}

// A number of a file of the system; null where there is none, or one that can't be true, as of a broken sensor.
std::string number_of(const std::string& path, long long least, long long most) {
  const std::string line = line_of(path);
  char* end = nullptr;
  const long long value = std::strtoll(line.c_str(), &end, 10);
  return end == line.c_str() || value < least || value > most ? "null" : std::to_string(value);
}

// Of the core that this thread is on, and the hottest sensor that the system has.
std::string surroundings() {
  const std::string core = "/sys/devices/system/cpu/cpu" + std::to_string(std::max(0, sched_getcpu())) + "/cpufreq/";
  std::string hottest = "null";
  for (int zone = 0; zone < 64; ++zone) {
    const std::string sensor = "/sys/class/thermal/thermal_zone" + std::to_string(zone) + "/temp";
    const std::string found = number_of(sensor, -100000, 200000);
    if (found != "null" && (hottest == "null" || std::stoll(found) > std::stoll(hottest))) hottest = found;
  }
  return "{\"governor\": " + quoted(line_of(core + "scaling_governor")) +
         ", \"kilohertz\": " + number_of(core + "scaling_cur_freq", 1, 100000000) + ", \"millidegrees\": " + hottest +
         "}";
}

// Bytes of memory that this process had at most. getrusage would count the program that started it, too.
std::string peak_memory() {
  const std::string found = entry("/proc/self/status", "VmHWM");
  return found.empty() ? "null" : std::to_string(std::strtoull(found.c_str(), nullptr, 10) * 1024);
}

size_t width(int type) { return type == BIBENCH_INT64 ? 8 : type == BIBENCH_UINT8 ? 1 : 4; }

// One sample: multiples of 1/8 in [-2, 2), the same everywhere; zeros for what isn't float32, such as indices.
std::vector<std::vector<char>> samples(const bibench_model* model) {
  std::vector<std::vector<char>> found;
  uint64_t state = 1;
  for (int i = 0; i < bibench_input_number(model); ++i) {
    const int type = bibench_input_type(model, i);
    const size_t count = bibench_input_count(model, i);
    found.emplace_back(count * width(type));
    for (size_t k = 0; type == BIBENCH_FLOAT32 && k < count; ++k) {
      state = state * 6364136223846793005u + 1442695040888963407u;
      const float value = (static_cast<int>(state >> 59) - 16) / 8.0f;
      std::memcpy(found.back().data() + 4 * k, &value, 4);
    }
  }
  return found;
}

// FNV-1a over all outputs' bytes.
uint64_t checksum(const std::vector<std::vector<char>>& outputs) {
  uint64_t hash = 0xcbf29ce484222325u;
  for (const auto& output : outputs)
    for (const char byte : output) hash = (hash ^ static_cast<uint8_t>(byte)) * 0x100000001b3u;
  return hash;
}

class Network {
 public:
  Network(const char* path, int threads) {
    const std::vector<char> bytes = content(path);
    char error[512] = "";
    model_ = bibench_load(bytes.data(), bytes.size(), nullptr, threads, error, sizeof error);
    if (!model_) throw Failure(std::string(path) + ": " + error);
    inputs_ = samples(model_);
    for (int i = 0; i < bibench_output_number(model_); ++i)
      outputs_.emplace_back(bibench_output_count(model_, i) * width(bibench_output_type(model_, i)));
    for (auto& input : inputs_) sources_.push_back(input.data());
    for (auto& output : outputs_) targets_.push_back(output.data());
  }
  Network(const Network&) = delete;
  Network& operator=(const Network&) = delete;
  ~Network() { bibench_free(model_); }

  // Nanoseconds of so many calls.
  int64_t run(int64_t calls) {
    char error[512] = "";
    const int64_t start = now();
    for (int64_t i = 0; i < calls; ++i)
      if (bibench_run(model_, sources_.data(), targets_.data(), 1, error, sizeof error)) throw Failure(error);
    return now() - start;
  }
  const bibench_model* model() const { return model_; }
  uint64_t outputs() const { return checksum(outputs_); }

 private:
  bibench_model* model_ = nullptr;
  std::vector<std::vector<char>> inputs_, outputs_;
  std::vector<const void*> sources_;
  std::vector<void*> targets_;
};

int64_t calls_to_last(Network& network) {
  for (int64_t count = 1;;) {
    const int64_t taken = std::max<int64_t>(1, network.run(count));
    if (taken >= kLeastNanoseconds) return count;
    count = std::max(count + 1, std::min(10 * count, count * kLeastNanoseconds * 11 / 10 / taken));
  }
}

// Whoever asked for the measurement is gone, such as a connection that broke: there is nobody to keep a device busy
// for.
bool abandoned() {
  pollfd output{STDOUT_FILENO, 0, 0};
  return poll(&output, 1, 0) > 0 && (output.revents & (POLLERR | POLLHUP));
}

int number(const char* text, int least, int most) {
  char* end = nullptr;
  const long value = std::strtol(text, &end, 10);
  return *text && !*end && value >= least && value <= most ? static_cast<int>(value) : -1;
}

void measure(const char* path, int threads, int warm_up, int repeats) {
  Network network(path, threads);
  network.run(1);
  const uint64_t outputs = network.outputs();
  const std::string before = surroundings();
  network.run(warm_up);
  const int64_t calls = calls_to_last(network);
  std::string times;
  for (int i = 0; i < repeats; ++i) {
    if (abandoned()) throw Failure("nobody reads the output any more");
    times += (i ? ", " : "") + std::to_string(network.run(calls));
  }
  const std::string after = surroundings();
  std::printf(
      "{\"schema_version\": 1, \"threads\": %d, \"warm_up\": %d, \"calls\": %lld, \"nanoseconds\": [%s], "
      "\"peak_bytes\": %s, \"model_bytes\": %zu, \"isa\": \"%s\", \"processor\": %s, \"cores\": %u, \"before\": %s, "
      "\"after\": %s, \"checksum\": \"%016llx\"}\n",
      threads, warm_up, static_cast<long long>(calls), times.c_str(), peak_memory().c_str(),
      bibench_memory(network.model()), bibench_model_isa(network.model()), quoted(processor()).c_str(),
      std::max(1u, std::thread::hardware_concurrency()), before.c_str(), after.c_str(),
      static_cast<unsigned long long>(outputs));
  if (std::fflush(stdout) || std::ferror(stdout)) throw Failure(std::string("the output: ") + std::strerror(errno));
}

}  // namespace

int main(int argc, char** argv) {
  const int threads = argc == 5 ? number(argv[2], 1, 256) : -1;
  const int warm_up = argc == 5 ? number(argv[3], 0, 1000000) : -1;
  const int repeats = argc == 5 ? number(argv[4], 1, kMostRepeats) : -1;
  if (threads < 0 || warm_up < 0 || repeats < 0) {
    std::fprintf(stderr, "usage: %s NETWORK THREADS WARM_UP REPEATS\n", argv[0]);
    return 2;
  }
  try {
    measure(argv[1], threads, warm_up, repeats);
    return 0;
  } catch (const std::bad_alloc&) {
    std::fprintf(stderr, "%s: no memory left\n", argv[1]);
  } catch (const std::exception& problem) {
    std::fprintf(stderr, "%s\n", problem.what());
  }
  return 1;
}
