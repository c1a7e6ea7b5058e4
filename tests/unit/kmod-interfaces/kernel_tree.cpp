#include "tests/unit/kmod-interfaces/kernel_tree.h"

#include <unistd.h>

#include <array>
#include <fstream>
#include <stdexcept>

namespace tidepool::kernel {

KernelTree::KernelTree() {
  std::string name = (std::filesystem::temp_directory_path() / "tidepool-tree-XXXXXX").string();
  if (::mkdtemp(name.data()) == nullptr) throw std::runtime_error("no temporary directory");
  root_ = name;
  for (const char* folder : {"proc", "sys", "cgroup", "dev"}) make_directory(folder);
}

KernelTree::~KernelTree() {
  std::error_code ignored;
  std::filesystem::remove_all(root_, ignored);
}

void KernelTree::write(const std::string& path, std::string_view text) {
  std::filesystem::create_directories((root_ / path).parent_path());
  std::ofstream file(root_ / path, std::ios::binary | std::ios::trunc);
  file.write(text.data(), static_cast<std::streamsize>(text.size()));
  if (!file.flush()) throw std::runtime_error("cannot write " + path);
}

void KernelTree::link(const std::string& path, const std::string& target) {
  std::filesystem::create_directories((root_ / path).parent_path());
  std::filesystem::remove(root_ / path);
  std::filesystem::create_symlink(target, root_ / path);
}

void KernelTree::make_directory(const std::string& path) {
  std::filesystem::create_directories(root_ / path);
}

void KernelTree::add_process(pid_t pid, const std::string& comm, const std::string& executable) {
  const std::string folder = "proc/" + std::to_string(pid) + "/";
  write(folder + "stat", stat_line(pid, comm));
  write(folder + "status", "Name:\t" + comm + "\nTgid:\t" + std::to_string(pid) +
                               "\nTracerPid:\t0\nUid:\t1000\t1000\t1000\t1000\nGid:\t1000\t1000\t1000\t1000\n"
                               "VmSize:\t 100000 kB\nVmLck:\t 0 kB\nVmPin:\t 0 kB\nThreads:\t1\n"
                               "CapEff:\t0000000000000000\nNoNewPrivs:\t0\nSeccomp:\t0\n");
  write(folder + "cmdline", comm + std::string(1, '\0'));
  write(folder + "maps", "");
  write(folder + "smaps", "");
  write(folder + "mountinfo", "30 24 0:27 / /dev/shm rw - tmpfs tmpfs rw\n24 1 254:0 / / rw - ext4 /dev/vda rw\n");
  write(folder + "cgroup", "0::/\n");
  write(folder + "task/" + std::to_string(pid) + "/stat", stat_line(pid, comm));
  link(folder + "exe", executable);
  make_directory(folder + "fd");
  make_directory(folder + "fdinfo");
}

void KernelTree::add_descriptor(pid_t pid, int number, const std::string& target, std::string_view fdinfo) {
  const std::string folder = "proc/" + std::to_string(pid) + "/";
  link(folder + "fd/" + std::to_string(number), target);
  write(folder + "fdinfo/" + std::to_string(number), fdinfo);
}

KernelRoots KernelTree::roots() const {
  return KernelRoots{path_of("proc"), path_of("sys"), path_of("cgroup"), path_of("dev")};
}

std::string stat_line(pid_t pid, const std::string& comm, char state, std::uint32_t flags, std::uint64_t start_ticks,
                      unsigned threads) {
  return std::to_string(pid) + " (" + comm + ") " + state + " 1 1 1 0 -1 " + std::to_string(flags) +
         " 0 0 0 0 0 0 0 0 20 0 " + std::to_string(threads) + " 0 " + std::to_string(start_ticks) + " 1 1 1\n";
}

}  // namespace tidepool::kernel
