#!/usr/bin/env bash
# Runs gatewarp's hardware tests on this machine; with --bench the benches too.
#
# Needs an NVIDIA driver with NVRTC (a CUDA toolkit, or GATEWARP_NVRTC=/path/to/libnvrtc.so) for CUDA, and a Vulkan loader
# with a driver for wgpu. What is not there is skipped, with its reason; GATEWARP_REQUIRE=cuda,wgpu makes that a failure.
# GATEWARP_SM90=1 tests the kernels that compute capability 9.0 alone runs, in place of those of 8.0: run it with and without.
# Leaves results/summary.txt, results/junit.xml and a log per program in this folder.
set -euo pipefail
cd "$(dirname "$0")"
[ -d bin ] || tar -xzf programs.tar.gz
exec ./bin/xtask run-bundle . "$@"
