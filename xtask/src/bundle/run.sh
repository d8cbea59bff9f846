#!/usr/bin/env bash
# Runs gatewarp's hardware tests on this machine; with --bench the benches too.
#
# Needs an NVIDIA driver with NVRTC (a CUDA toolkit, or GATEWARP_NVRTC=/path/to/libnvrtc.so) for CUDA, and a Vulkan loader
# with a driver for wgpu. What is not there is skipped, with its reason; GATEWARP_REQUIRE=cuda,wgpu makes that a failure.
# On compute capability 9.0, GATEWARP_SM90=0 tests the kernels of 8.0 in place of those made for 9.0: run it with and without.
# Leaves results/summary.txt, results/junit.xml and a log per program in this folder.
set -euo pipefail
cd "$(dirname "$0")"
[ -d bin ] || tar -xzf programs.tar.gz
exec ./bin/xtask run-bundle . "$@"
