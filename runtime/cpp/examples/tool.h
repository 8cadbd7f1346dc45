// What the example hosts have in common as command-line tools.
#pragma once

#include <functional>
#include <string>
#include <wanrt/wanrt.hpp>

// Run a tool and return its exit status: errors go to stderr with their hints; 2 for a wrong use,
// after the usage text, and 1 for other failures or if what was printed could not be.
int run_tool(const std::string& usage, const std::function<int()>& work);

// Print a tool's name, the library's version and its backends.
void print_version(const char* tool);

// Shows on a terminal how much of an engine is loaded, since 33 GB take a while; elsewhere nothing.
wanrt::Progress loading_progress();

// Shows on a terminal how many steps of how many are done; elsewhere nothing.
void show_steps(long done, long total);
