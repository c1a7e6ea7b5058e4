// What an init has to do before a program can run: file systems, modules, the console; and the power switch after it.
#pragma once

#include <map>
#include <string>

namespace tidepool::guest {

// Mounts /dev, /proc and /sys and loads /modules/*.ko in the order of their names. Says on the console what failed and
// goes on: a guest without a balloon is still worth running.
void prepare_system();
// The `load.KEY=VALUE` words of the kernel's command line, by KEY.
std::map<std::string, std::string> load_parameters();
// The next line from the console, without waiting; empty when there is none.
std::string poll_command();
[[noreturn]] void power_off();

}  // namespace tidepool::guest
