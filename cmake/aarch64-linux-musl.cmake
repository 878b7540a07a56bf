# Cross-compiles for AArch64 with Clang and a C library that can be linked in whole: both come with PyPI's ziglang, so any
# Linux can do it, and an emulator runs the programs without a root file system.
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_CXX_COMPILER python -m ziglang c++ -target aarch64-linux-musl)
