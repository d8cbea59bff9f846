// Emulated device memory: guarded allocations, and the per-launch view through which kernels reach them.
#include <algorithm>
#include <cstdio>
#include <cstdlib>

#include "runtime.hpp"

namespace emulator {

namespace {

constexpr size_t ALIGNMENT = 256;     // what cuMemAlloc promises
constexpr size_t GUARD_BYTES = 1024;  // on each side; a multiple of ALIGNMENT
constexpr unsigned char GUARD = 0xA5;

struct Registry {
    std::mutex mutex;
    std::vector<Range> allocations;  // sorted by address; counters hold the traffic of all launches
    size_t bytes_in_use = 0;

    /// Where an allocation that begins at `address` is or would be.
    std::vector<Range>::iterator place(uintptr_t address) {
        return std::lower_bound(allocations.begin(), allocations.end(), address,
                                [](const Range& range, uintptr_t value) { return range.begin < value; });
    }

    /// The allocation that begins at `address`, or null.
    Range* at(uintptr_t address) {
        const auto found = place(address);
        return found != allocations.end() && found->begin == address ? &*found : nullptr;
    }

    /// The allocation that holds `address`, or null.
    Range* holder(uintptr_t address) {
        auto found = place(address);
        if (found == allocations.end() || found->begin != address) {
            if (found == allocations.begin()) return nullptr;
            --found;
        }
        // An empty allocation holds its own address, so that zero bytes can be copied to it.
        const size_t extent = std::max<size_t>(found->size, 1);
        return address - found->begin < extent ? &*found : nullptr;
    }
};

Registry& registry() {
    static Registry* instance = new Registry;  // never destroyed: threads may outlive static destructors
    return *instance;
}

}  // namespace

// ------------------------------------------------------------------------------------------------------- host side

unsigned char* allocate(size_t bytes) {
    Registry& memory = registry();
    std::lock_guard lock(memory.mutex);
    if (bytes > DEVICE_MEMORY_BYTES - memory.bytes_in_use) return nullptr;
    const size_t padded = (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    // Grown before the block exists, so that nothing can throw and lose it.
    if (memory.allocations.size() == memory.allocations.capacity())
        memory.allocations.reserve(2 * memory.allocations.size() + 16);
    auto* block = static_cast<unsigned char*>(std::aligned_alloc(ALIGNMENT, GUARD_BYTES + padded + GUARD_BYTES));
    if (!block) return nullptr;
    unsigned char* begin = block + GUARD_BYTES;
    std::memset(block, GUARD, GUARD_BYTES);
    std::memset(begin, POISON, bytes);
    std::memset(begin + bytes, GUARD, padded - bytes + GUARD_BYTES);
    const uintptr_t address = reinterpret_cast<uintptr_t>(begin);
    memory.allocations.insert(memory.place(address), {address, bytes, {}});
    memory.bytes_in_use += bytes;
    return begin;
}

MemoryStatus release(uintptr_t address, ptrdiff_t* offset) {
    Registry& memory = registry();
    std::lock_guard lock(memory.mutex);
    const Range* found = memory.at(address);
    if (!found) return MemoryStatus::UnknownAddress;
    const size_t bytes = found->size;
    const size_t padded = (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    auto* begin = reinterpret_cast<unsigned char*>(address);
    const auto spoiled = [](unsigned char byte) { return byte != GUARD; };
    unsigned char* const before = std::find_if(begin - GUARD_BYTES, begin, spoiled);
    unsigned char* const end = begin + padded + GUARD_BYTES;
    unsigned char* const after = std::find_if(begin + bytes, end, spoiled);
    MemoryStatus status = MemoryStatus::Ok;
    if (before != begin || after != end) {
        status = MemoryStatus::GuardOverwritten;
        *offset = (before != begin ? before : after) - begin;
    }
    std::free(begin - GUARD_BYTES);
    memory.bytes_in_use -= bytes;
    memory.allocations.erase(memory.place(address));
    return status;
}

MemoryStatus check_span(uintptr_t address, size_t bytes) {
    Registry& memory = registry();
    std::lock_guard lock(memory.mutex);
    Range* found = memory.holder(address);
    if (!found) return MemoryStatus::UnknownAddress;
    return bytes <= found->size - (address - found->begin) ? MemoryStatus::Ok : MemoryStatus::OutOfBounds;
}

MemoryStatus read_traffic(uintptr_t address, Counters* counters) {
    Registry& memory = registry();
    std::lock_guard lock(memory.mutex);
    Range* found = memory.holder(address);
    if (!found) return MemoryStatus::UnknownAddress;
    *counters = found->counters;
    return MemoryStatus::Ok;
}

MemoryStatus reset_traffic(uintptr_t address) {
    Registry& memory = registry();
    std::lock_guard lock(memory.mutex);
    Range* found = memory.holder(address);
    if (!found) return MemoryStatus::UnknownAddress;
    found->counters = {};
    return MemoryStatus::Ok;
}

// ----------------------------------------------------------------------------------------------------- kernel side

Range* MemorySnapshot::nothing() {
    static Range empty{};
    return &empty;
}

void MemorySnapshot::take() {
    Registry& memory = registry();
    std::lock_guard lock(memory.mutex);
    ranges_ = memory.allocations;
    for (Range& range : ranges_) range.counters = {};
    std::fill(recent_, recent_ + RECENT, nothing());
}

Counters MemorySnapshot::merge() {
    Registry& memory = registry();
    std::lock_guard lock(memory.mutex);
    Counters total{};
    for (const Range& range : ranges_) {
        if (range.counters.loads == 0 && range.counters.stores == 0) continue;
        total += range.counters;
        if (Range* allocation = memory.at(range.begin)) allocation->counters += range.counters;
    }
    return total;
}

Range* MemorySnapshot::find(uintptr_t address, size_t bytes) {
    for (size_t i = 0; i < RECENT; ++i) {
        Range* range = recent_[i];
        if (!range->contains(address, bytes)) continue;
        std::swap(recent_[i], recent_[0]);
        return range;
    }
    const auto above = std::upper_bound(ranges_.begin(), ranges_.end(), address,
                                        [](uintptr_t value, const Range& range) { return value < range.begin; });
    if (above == ranges_.begin()) return nullptr;
    Range* range = &*std::prev(above);
    if (!range->contains(address, bytes)) return nullptr;
    std::copy_backward(recent_, recent_ + RECENT - 1, recent_ + RECENT);
    recent_[0] = range;
    return range;
}

std::string MemorySnapshot::describe(uintptr_t address) const {
    const Range* nearest = nullptr;
    uintptr_t distance = UINTPTR_MAX;
    bool past = false;
    for (const Range& range : ranges_) {
        const bool above = address >= range.begin;
        const uintptr_t gap = above ? address - range.begin : range.begin - address;
        const uintptr_t from_edge = above && gap > range.size ? gap - range.size : above ? 0 : gap;
        if (from_edge >= distance) continue;
        nearest = &range;
        distance = from_edge;
        past = above;
    }
    if (!nearest) return "there is no allocation";
    char text[160];
    if (past && address - nearest->begin < nearest->size) {
        snprintf(text, sizeof text, "it crosses the end of the %zu-byte allocation at 0x%zx", nearest->size, nearest->begin);
    } else {
        snprintf(text, sizeof text, "the nearest allocation, 0x%zx with %zu bytes, %s %zu bytes %s it", nearest->begin,
                 nearest->size, past ? "ends" : "begins", distance, past ? "before" : "after");
    }
    return text;
}

Range& find_range(uintptr_t address, size_t bytes, const char* what) {
    Block* block = current_block();
    Range* range = block->memory.find(address, bytes);
    if (!range) {
        char where[160];
        snprintf(where, sizeof where, "%s", block->memory.describe(address).c_str());
        fault("%s of %zu bytes at 0x%zx is out of bounds: %s", what, bytes, address, where);
    }
    block->latest = range;
    return *range;
}

void fault_misaligned(const void* pointer, size_t bytes, const char* what) {
    fault("misaligned %s of %zu bytes at %p", what, bytes, pointer);
}

void fault_shared(long long index, long long count, size_t element_bytes) {
    fault("shared memory access out of bounds: element %lld of a window of %lld elements of %zu bytes", index, count, element_bytes);
}

}  // namespace emulator
