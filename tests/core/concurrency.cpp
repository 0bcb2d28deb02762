// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <map>
#include <random>
#include <string>
#include <vector>

#include <nibble/core/concurrency.hpp>

#if defined(__linux__)
#include <sched.h>
#endif

using namespace nibble;
using core::no_cpu_limit;

namespace {

using files = std::map<std::string, std::string>;

std::size_t limit_of(const files& system, std::size_t* reads = nullptr) {
  return core::cgroup_cpu_limit([&](const std::string& path, std::string& text) {
    if (reads != nullptr) ++*reads;
    const auto file = system.find(path);
    if (file == system.end()) return false;
    text = file->second;
    return true;
  });
}

const std::string v2_mount = "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n";
const std::string v1_mount =
    "34 29 0:30 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid shared:9 - cgroup cgroup rw,cpu,cpuacct\n";

files v2(const std::string& path, files limits) {
  limits["/proc/self/cgroup"] = "0::" + path + "\n";
  limits["/proc/self/mountinfo"] = "1 1 8:1 / / rw - ext4 /dev/sda1 rw\n" + v2_mount;
  return limits;
}

}  // namespace

TEST_CASE("concurrency: cpu.max is rounded up to whole CPUs") {
  CHECK(core::cpus_of_cpu_max("200000 100000\n") == 2);
  CHECK(core::cpus_of_cpu_max("200001 100000\n") == 3);
  CHECK(core::cpus_of_cpu_max("1000 100000\n") == 1);
  CHECK(core::cpus_of_cpu_max("150000 100000") == 2);
  CHECK(core::cpus_of_cpu_max("max 100000\n") == no_cpu_limit);
}

TEST_CASE("concurrency: a cpu.max that makes no sense limits nothing") {
  for (const char* text :
       {"", "\n", " ", "max", "100000", "100000 ", " 100000", "0 100000", "100000 0", "-1 100000", "1e5 100000",
        "100000 100000 100000", "100000  100000", "9999999999999999999 1", "0x10 1", "+5 1"})
    CHECK_MESSAGE(core::cpus_of_cpu_max(text) == no_cpu_limit, text);
  CHECK(core::cpus_of_cpu_max(std::string_view("100000 100000\0", 14)) == no_cpu_limit);
  CHECK(core::cpus_of_cpu_max("999999999999999999 1") == 999999999999999999u);
}

TEST_CASE("concurrency: a quota of version 1 is in two files, -1 is none") {
  CHECK(core::cpus_of_quota("350000\n", "100000\n") == 4);
  CHECK(core::cpus_of_quota("-1\n", "100000\n") == no_cpu_limit);
  CHECK(core::cpus_of_quota("100000\n", "") == no_cpu_limit);
}

TEST_CASE("concurrency: the tightest group on the way up counts") {
  CHECK(limit_of(v2("/a/b", {{"/sys/fs/cgroup/a/b/cpu.max", "800000 100000\n"},
                             {"/sys/fs/cgroup/a/cpu.max", "300000 100000\n"}})) == 3);
  CHECK(limit_of(v2("/a/b", {{"/sys/fs/cgroup/a/b/cpu.max", "200000 100000\n"},
                             {"/sys/fs/cgroup/a/cpu.max", "300000 100000\n"}})) == 2);
  CHECK(limit_of(v2("/a/b", {{"/sys/fs/cgroup/a/b/cpu.max", "max 100000\n"}})) == no_cpu_limit);
  // A group without the file, below one with it; a sibling's limit does not count.
  CHECK(limit_of(v2("/a/b/c", {{"/sys/fs/cgroup/a/cpu.max", "100000 100000\n"}})) == 1);
  CHECK(limit_of(v2("/a", {{"/sys/fs/cgroup/ab/cpu.max", "100000 100000\n"}})) == no_cpu_limit);
}

TEST_CASE("concurrency: the root of a cgroup namespace may have a limit of its own") {
  CHECK(limit_of(v2("/", {{"/sys/fs/cgroup/cpu.max", "50000 100000\n"}})) == 1);
  CHECK(limit_of(v2("/a", {{"/sys/fs/cgroup/cpu.max", "200000 100000\n"}})) == 2);
}

TEST_CASE("concurrency: version 1, alone and beside a version 2 without controllers") {
  files system = {
      {"/proc/self/cgroup", "12:memory:/elsewhere\n4:cpu,cpuacct:/job\n3:cpuset:/elsewhere\n0::/unified\n"},
      {"/proc/self/mountinfo", "33 29 0:29 / /sys/fs/cgroup/cpuset rw - cgroup cgroup rw,cpuset\n" + v1_mount +
                                   "31 29 0:27 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"},
      {"/sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_quota_us", "250000\n"},
      {"/sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_period_us", "100000\n"},
      {"/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "-1\n"},
      {"/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", "100000\n"},
      {"/sys/fs/cgroup/cpuset/elsewhere/cpu.cfs_quota_us", "1000\n"},
      {"/sys/fs/cgroup/cpuset/elsewhere/cpu.cfs_period_us", "1000\n"}};
  CHECK(limit_of(system) == 3);
  system["/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us"] = "100000\n";
  CHECK(limit_of(system) == 1);
  system.erase("/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us");
  CHECK(limit_of(system) == 3);
}

TEST_CASE("concurrency: a container's mount shows the part of the hierarchy below its root") {
  files system = {{"/proc/self/cgroup", "4:cpu,cpuacct:/docker/abc/inner\n"},
                  {"/proc/self/mountinfo", "34 29 0:30 /docker/abc /sys/fs/cgroup/cpu ro - cgroup cgroup rw,cpu\n"},
                  {"/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "200000\n"},
                  {"/sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n"}};
  CHECK(limit_of(system) == 2);
  // Another container's mount: the name only begins alike.
  system["/proc/self/cgroup"] = "4:cpu,cpuacct:/docker/abcd\n";
  CHECK(limit_of(system) == no_cpu_limit);
  system["/proc/self/cgroup"] = "4:cpu,cpuacct:/other\n";
  CHECK(limit_of(system) == no_cpu_limit);
}

TEST_CASE("concurrency: a group outside the namespace is not followed") {
  CHECK(limit_of(v2("/../../host", {{"/sys/fs/cgroup/cpu.max", "100000 100000\n"},
                                    {"/sys/fs/cgroup/../../host/cpu.max", "100000 100000\n"}})) == no_cpu_limit);
  CHECK(limit_of(v2("/..", {{"/sys/fs/cgroup/cpu.max", "100000 100000\n"}})) == no_cpu_limit);
  CHECK(limit_of(v2("/a..b", {{"/sys/fs/cgroup/a..b/cpu.max", "100000 100000\n"}})) == 1);
}

TEST_CASE("concurrency: mount points with escaped characters, and one at the root directory") {
  files system = {{"/proc/self/cgroup", "0::/a\n"},
                  {"/proc/self/mountinfo", "30 23 0:26 / /my\\040groups\\134x rw - cgroup2 cgroup2 rw\n"},
                  {"/my groups\\x/a/cpu.max", "100000 100000\n"}};
  CHECK(limit_of(system) == 1);
  system["/proc/self/mountinfo"] = "30 23 0:26 / / rw - cgroup2 cgroup2 rw\n";
  CHECK(limit_of(system) == no_cpu_limit);
  system["/a/cpu.max"] = "400000 100000\n";
  CHECK(limit_of(system) == 4);
}

TEST_CASE("concurrency: missing, cut and hostile files limit nothing and end") {
  CHECK(limit_of({}) == no_cpu_limit);
  CHECK(limit_of({{"/proc/self/cgroup", "0::/\n"}}) == no_cpu_limit);
  const files good = v2("/a/b", {{"/sys/fs/cgroup/a/cpu.max", "100000 100000\n"}});
  REQUIRE(limit_of(good) == 1);
  for (const char* name : {"/proc/self/cgroup", "/proc/self/mountinfo"}) {
    const std::string text = good.at(name);
    for (std::size_t cut = 0; cut < text.size(); ++cut) {
      files damaged = good;
      damaged[name] = text.substr(0, cut);
      const std::size_t limit = limit_of(damaged);
      CHECK((limit == 1 || limit == no_cpu_limit));
    }
  }
  std::mt19937 rng(1);
  for (int round = 0; round < 2000; ++round) {
    files damaged = good;
    for (const char* name : {"/proc/self/cgroup", "/proc/self/mountinfo", "/sys/fs/cgroup/a/cpu.max"}) {
      std::string& text = damaged[name];
      for (int i = 0; i < 3; ++i) text[rng() % text.size()] = "/: \n\\0.-x\xff"[rng() % 10];
    }
    CHECK(limit_of(damaged) >= 1);
  }
  // A path of a million levels is followed for a bounded number of them.
  std::string deep;
  for (int i = 0; i < 1000000; ++i) deep += "/a";
  std::size_t reads = 0;
  CHECK(limit_of(v2(deep, {}), &reads) == no_cpu_limit);
  CHECK(reads < 200);
}

TEST_CASE("concurrency: this process has at least one CPU and no more than its affinity mask") {
  const std::size_t here = available_concurrency();
  CHECK(here >= 1);
#if defined(__linux__)
  cpu_set_t before, one;
  REQUIRE(sched_getaffinity(0, sizeof before, &before) == 0);
  CHECK(here <= static_cast<std::size_t>(CPU_COUNT(&before)));
  int cpu = 0;
  while (!CPU_ISSET(cpu, &before)) ++cpu;
  CPU_ZERO(&one);
  CPU_SET(cpu, &one);
  REQUIRE(sched_setaffinity(0, sizeof one, &one) == 0);
  CHECK(available_concurrency() == 1);
  REQUIRE(sched_setaffinity(0, sizeof before, &before) == 0);
#endif
}
