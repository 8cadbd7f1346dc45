// Flags that the example hosts share, and the values of flags.
#pragma once

#include <getopt.h>
#include <wanrt/wanrt.h>

#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

class UsageError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// Canonical adapters, each with its strength.
using Adapters = std::vector<std::pair<std::string, float>>;

// How an engine is opened: these flags' lines of the usage text, a tool's own flags and them as
// getopt_long takes them, and what one of them sets: false if the flag is another one.
extern const char* const kEngineFlagsUsage;
std::vector<option> with_engine_flags(std::vector<option> own);
bool read_engine_flag(int flag, const char* value, wanrt_options& options);

// Values. All of them throw UsageError.
long read_count(const char* text, long least, long most);
double read_number(const char* text);
std::vector<float> read_strengths(const std::string& text);  // S[,S...]
Adapters read_adapters(const std::string& text);             // FILE[:S][,FILE[:S]...] or `base`

// Take the next flag off a command line, as getopt_long does; -1 behind the last. Throws
// UsageError.
int next_flag(int argc, char* const* argv, const std::vector<option>& known);
