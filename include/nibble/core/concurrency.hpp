// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// How many threads a process may keep busy: its affinity mask and the CPU quota of its control groups (Linux, cgroup v1
/// and v2).
///
/// Sources: proc(5), cgroups(7), cgroup_namespaces(7); Linux, Documentation/admin-guide/cgroup-v2.rst (cpu.max) and
/// Documentation/scheduler/sched-bwc.rst (cpu.cfs_quota_us, cpu.cfs_period_us).

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <string>
#include <string_view>
#include <thread>

#include <nibble/core/config.hpp>

#if defined(__linux__)
#include <sched.h>
#endif

namespace nibble {
inline namespace NIBBLE_ABI {
namespace core {

/// No limit, or a text that says nothing intelligible about one.
inline constexpr std::size_t no_cpu_limit = ~std::size_t{0};

/// Cuts the text before the first `end` off `rest`, and `end` with it.
constexpr std::string_view cut_until(std::string_view& rest, char end) noexcept {
  const std::size_t at = rest.find(end);
  const std::string_view piece = rest.substr(0, at);
  rest.remove_prefix(at == std::string_view::npos ? rest.size() : at + 1);
  return piece;
}

/// CPUs of `quota` microseconds in each `period`, rounded up, both as text; no_cpu_limit unless both are positive integers
/// below 10^18. ("max" and -1 mean no quota.)
constexpr std::size_t cpus_of_quota(std::string_view quota, std::string_view period) noexcept {
  const auto number = [](std::string_view text) -> std::uint64_t {
    if (text.ends_with('\n')) text.remove_suffix(1);
    if (text.empty() || text.size() > 18) return 0;
    std::uint64_t value = 0;
    for (const char c : text) {
      if (c < '0' || c > '9') return 0;
      value = value * 10 + static_cast<std::uint64_t>(c - '0');
    }
    return value;
  };
  const std::uint64_t q = number(quota), p = number(period);
  if (q == 0 || p == 0) return no_cpu_limit;
  return static_cast<std::size_t>(q / p + (q % p != 0));
}

/// The same from the text of a cgroup v2 file cpu.max, "<quota> <period>".
constexpr std::size_t cpus_of_cpu_max(std::string_view text) noexcept {
  const std::string_view quota = cut_until(text, ' ');
  return cpus_of_quota(quota, text);
}

/// The tightest CPU quota on the way from this process's control group up to the mount of its hierarchy, in CPUs rounded
/// up, or no_cpu_limit. `read(path, text)` sets `text` to the content of a file and returns false when there is none.
///
/// A mount counts when the group lies under its root, so a container's own view (a cgroup namespace, or a bind mount) is
/// followed as far as it is mounted. Limits above that are invisible from inside, here as to every other program.
template <class ReadFile>
std::size_t cgroup_cpu_limit(ReadFile&& read) {
  constexpr int most_levels = 128;
  std::string groups, mounts, text, period;
  if (!read("/proc/self/cgroup", groups) || !read("/proc/self/mountinfo", mounts)) return no_cpu_limit;

  // The group's path in the hierarchy of version 2, and in that of version 1 which has the controller `cpu`.
  const auto lists_cpu = [](std::string_view controllers) {
    while (!controllers.empty())
      if (cut_until(controllers, ',') == "cpu") return true;
    return false;
  };
  std::string_view path_v1, path_v2;
  for (std::string_view rest = groups; !rest.empty();) {
    std::string_view line = cut_until(rest, '\n');
    const std::string_view id = cut_until(line, ':'), controllers = cut_until(line, ':');
    if (id == "0" && controllers.empty()) path_v2 = line;
    else if (lists_cpu(controllers)) path_v1 = line;
  }

  std::size_t limit = no_cpu_limit;
  const auto tighten = [&](std::size_t cpus) { limit = cpus < limit ? cpus : limit; };
  for (std::string_view rest = mounts; !rest.empty();) {
    std::string_view line = cut_until(rest, '\n');
    // id, parent, device, root, mount point, options, optional fields, "-", type, source, options of the file system
    for (int i = 0; i < 3; ++i) cut_until(line, ' ');
    const std::string_view root = cut_until(line, ' '), point = cut_until(line, ' ');
    while (!line.empty() && cut_until(line, ' ') != "-") {}
    const std::string_view type = cut_until(line, ' ');
    cut_until(line, ' ');
    const bool v2 = type == "cgroup2";
    if (!v2 && !(type == "cgroup" && lists_cpu(line))) continue;

    // The group's place under this mount: its path without the mount's root.
    std::string_view path = v2 ? path_v2 : path_v1;
    if (!path.starts_with('/') || !root.starts_with('/') || !point.starts_with('/')) continue;
    if (root != "/") {
      if (!path.starts_with(root)) continue;
      path.remove_prefix(root.size());
      if (!path.empty() && !path.starts_with('/')) continue;
    }
    if ((std::string(path) + '/').find("/../") != std::string::npos) continue;  // outside the namespace
    std::string directory;
    for (std::size_t i = 0; i < point.size(); ++i) {  // octal escapes for space, tab, newline and backslash
      const std::string_view e = point.substr(i, 4);
      const auto octal = [](char c) { return c >= '0' && c <= '7'; };
      if (e.size() == 4 && e[0] == '\\' && octal(e[1]) && octal(e[2]) && octal(e[3])) {
        directory += static_cast<char>((e[1] - '0') * 64 + (e[2] - '0') * 8 + (e[3] - '0'));
        i += 3;
      } else {
        directory += point[i];
      }
    }
    const std::size_t top = directory == "/" ? 0 : directory.size();
    directory.resize(top);
    directory += path;
    for (int level = 0; level < most_levels; ++level) {
      while (directory.size() > top && directory.ends_with('/')) directory.pop_back();
      if (v2) {
        if (read(directory + "/cpu.max", text)) tighten(cpus_of_cpu_max(text));
      } else if (read(directory + "/cpu.cfs_quota_us", text) && read(directory + "/cpu.cfs_period_us", period)) {
        tighten(cpus_of_quota(text, period));
      }
      if (directory.size() <= top) break;
      directory.resize(directory.rfind('/'));
    }
  }
  return limit;
}

/// The first MiB of a file.
inline bool read_small_file(const std::string& path, std::string& text) {
  text.clear();
  std::FILE* const file = std::fopen(path.c_str(), "r");
  if (file == nullptr) return false;
  char buffer[4096];
  for (std::size_t n = 0; text.size() < (std::size_t{1} << 20) && (n = std::fread(buffer, 1, sizeof buffer, file)) > 0;)
    text.append(buffer, n);
  std::fclose(file);
  return true;
}

}  // namespace core

/// CPUs that this thread may keep busy, at least 1: those of the affinity mask where the system has one (cpusets act on
/// it), else all; no more than the CPU quota of the process's control groups, rounded up. Reads some files on Linux: ask
/// once.
inline std::size_t available_concurrency() noexcept {
  const unsigned hardware = std::thread::hardware_concurrency();
  std::size_t count = hardware == 0 ? 1 : hardware;
#if defined(__linux__)
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0 && CPU_COUNT(&set) > 0)
    count = static_cast<std::size_t>(CPU_COUNT(&set));
#if defined(__cpp_exceptions)
  try {
#endif
    const std::size_t quota = core::cgroup_cpu_limit(core::read_small_file);
    if (quota < count) count = quota;
#if defined(__cpp_exceptions)
  } catch (...) {  // out of memory: whoever asks will meet that soon enough
  }
#endif
#endif
  return count;
}

}  // namespace NIBBLE_ABI
}  // namespace nibble
