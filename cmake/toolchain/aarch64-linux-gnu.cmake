# SPDX-License-Identifier: MIT
#
# 64-bit Arm with Debian's cross compiler (g++-aarch64-linux-gnu), tests in the emulator of user programs (qemu-user). Header
# libraries are this machine's own, from /usr.

set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_CXX_COMPILER aarch64-linux-gnu-g++)
set(CMAKE_CROSSCOMPILING_EMULATOR qemu-aarch64 -L /usr/aarch64-linux-gnu)
