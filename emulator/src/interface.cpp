// The C interface that src/lib.rs declares. No exception crosses it.
#include <cstdio>
#include <exception>
#include <string_view>

#include "runtime.hpp"

using namespace emulator;

namespace {

// The limits of compute capability 9.0, the largest we target.
constexpr unsigned MAX_BLOCK_THREADS = 1024;
constexpr unsigned MAX_BLOCK_Z = 64;
constexpr unsigned MAX_GRID_X = 0x7FFFFFFF;
constexpr unsigned MAX_GRID_YZ = 65535;
constexpr size_t MAX_SHARED_BYTES = 227 << 10;

struct FaultOut {
    Uint3 block, thread;
    char message[640];
};

void set_fault(FaultOut* out, Uint3 block, Uint3 thread, const char* message) {
    out->block = block;
    out->thread = thread;
    snprintf(out->message, sizeof out->message, "%s", message);
}

const Kernel* find_kernel(std::string_view entry) {
    for (const Kernel* kernel = first_kernel(); kernel; kernel = kernel->next)
        if (entry == kernel->entry) return kernel;
    return nullptr;
}

/// What a driver refuses before anything runs; null if the launch is possible.
const char* refuse(const Launch& launch, size_t argument_count) {
    const Uint3 grid = launch.grid, block = launch.block;
    if (!launch.kernel) return "no kernel is exported under this name";
    if (launch.kernel->argument_count != argument_count) return "wrong number of kernel arguments";
    if (!grid.x || !grid.y || !grid.z || !block.x || !block.y || !block.z) return "a grid or block dimension is zero";
    if (grid.x > MAX_GRID_X || grid.y > MAX_GRID_YZ || grid.z > MAX_GRID_YZ) return "the grid exceeds the device's limits";
    if (block.z > MAX_BLOCK_Z || uint64_t{block.x} * block.y > MAX_BLOCK_THREADS || launch.threads() > MAX_BLOCK_THREADS)
        return "the block exceeds the device's limits";
    if (launch.threads() % WARP_SIZE != 0) return "the block is not a whole number of warps";
    if (launch.shared_bytes > MAX_SHARED_BYTES) return "the shared memory exceeds the device's limit";
    return nullptr;
}

}  // namespace

extern "C" {

/// References every kernel's translation unit so that the linker keeps it; written by build.rs.
void gatewarp_emulator_link_kernels();

struct KernelOut {
    const char* entry;
    const char* source;
    const size_t* argument_sizes;
    size_t argument_count;
};

/// Writes up to `capacity` kernels and returns how many there are.
size_t gatewarp_emulator_kernels(KernelOut* out, size_t capacity) {
    gatewarp_emulator_link_kernels();
    size_t count = 0;
    for (const Kernel* kernel = first_kernel(); kernel; kernel = kernel->next, ++count)
        if (count < capacity) out[count] = {kernel->entry, kernel->source, kernel->argument_sizes, kernel->argument_count};
    return count;
}

uint64_t gatewarp_emulator_allocate(size_t bytes) {
    try {
        return reinterpret_cast<uintptr_t>(allocate(bytes));
    } catch (const std::exception&) {
        return 0;
    }
}

unsigned gatewarp_emulator_free(uint64_t address, ptrdiff_t* offset) {
    return static_cast<unsigned>(release(address, offset));
}

unsigned gatewarp_emulator_check_span(uint64_t address, size_t bytes) {
    return static_cast<unsigned>(check_span(address, bytes));
}

unsigned gatewarp_emulator_traffic(uint64_t address, Counters* counters) {
    return static_cast<unsigned>(read_traffic(address, counters));
}

unsigned gatewarp_emulator_reset_traffic(uint64_t address) { return static_cast<unsigned>(reset_traffic(address)); }

/// Runs a kernel to its end or to its first fault. True if it ended.
bool gatewarp_emulator_launch(const char* entry, size_t entry_bytes, const Uint3* grid, const Uint3* block,
                              size_t shared_bytes, void* const* arguments, size_t argument_count, unsigned order,
                              uint64_t seed, size_t threads, Counters* counters, FaultOut* fault) {
    gatewarp_emulator_link_kernels();
    try {
        Launch launch;
        launch.kernel = find_kernel({entry, entry_bytes});
        launch.arguments = arguments;
        launch.grid = *grid;
        launch.block = *block;
        launch.shared_bytes = shared_bytes;
        launch.schedule = {static_cast<Order>(order), seed};
        if (const char* reason = refuse(launch, argument_count)) {
            set_fault(fault, {}, {}, reason);
            return false;
        }
        run_launch(launch, threads);
        *counters = launch.counters;
        if (launch.faulted) set_fault(fault, launch.fault.block, launch.fault.thread, launch.fault.message.c_str());
        return !launch.faulted;
    } catch (const std::exception& error) {
        set_fault(fault, {}, {}, error.what());
        return false;
    }
}

}  // extern "C"
