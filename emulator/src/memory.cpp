// Emulated device memory: guarded allocations, and the per-launch view through which kernels reach them.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <map>

#include "runtime.hpp"

namespace emulator {

namespace {

constexpr size_t ALIGNMENT = 256;     // what cuMemAlloc promises
constexpr size_t GUARD_BYTES = 1024;  // on each side; a multiple of ALIGNMENT
constexpr unsigned char GUARD = 0xA5;

struct Allocation {
    size_t size;
    Counters traffic;
};

struct Registry {
    std::mutex mutex;
    std::map<uintptr_t, Allocation> allocations;
    size_t bytes_in_use = 0;

    /// The allocation that holds `address`, or end().
    std::map<uintptr_t, Allocation>::iterator holder(uintptr_t address) {
        auto next = allocations.upper_bound(address);
        if (next == allocations.begin()) return allocations.end();
        auto candidate = std::prev(next);
        // An empty allocation holds its own address, so that zero bytes can be copied to it.
        const size_t extent = std::max<size_t>(candidate->second.size, 1);
        return address - candidate->first < extent ? candidate : allocations.end();
    }
};

Registry& registry() {
    static Registry* instance = new Registry;  // never destroyed: threads may outlive static destructors
    return *instance;
}

void add(Counters& sum, const Counters& part) {
    sum.bytes_loaded += part.bytes_loaded;
    sum.bytes_stored += part.bytes_stored;
    sum.loads += part.loads;
    sum.stores += part.stores;
}

}  // namespace

// ------------------------------------------------------------------------------------------------------- host side

unsigned char* allocate(size_t bytes) {
    Registry& memory = registry();
    std::lock_guard lock(memory.mutex);
    if (bytes > DEVICE_MEMORY_BYTES - memory.bytes_in_use) return nullptr;
    const size_t padded = (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    auto* block = static_cast<unsigned char*>(std::aligned_alloc(ALIGNMENT, GUARD_BYTES + padded + GUARD_BYTES));
    if (!block) return nullptr;
    unsigned char* begin = block + GUARD_BYTES;
    std::memset(block, GUARD, GUARD_BYTES);
    std::memset(begin, POISON, bytes);
    std::memset(begin + bytes, GUARD, padded - bytes + GUARD_BYTES);
    memory.allocations[reinterpret_cast<uintptr_t>(begin)] = {bytes, {}};
    memory.bytes_in_use += bytes;
    return begin;
}

MemoryStatus release(uintptr_t address, ptrdiff_t* offset) {
    Registry& memory = registry();
    std::lock_guard lock(memory.mutex);
    const auto found = memory.allocations.find(address);
    if (found == memory.allocations.end()) return MemoryStatus::UnknownAddress;
    const size_t bytes = found->second.size;
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
    memory.allocations.erase(found);
    return status;
}

MemoryStatus check_span(uintptr_t address, size_t bytes) {
    Registry& memory = registry();
    std::lock_guard lock(memory.mutex);
    const auto found = memory.holder(address);
    if (found == memory.allocations.end()) return MemoryStatus::UnknownAddress;
    return bytes <= found->second.size - (address - found->first) ? MemoryStatus::Ok : MemoryStatus::OutOfBounds;
}

MemoryStatus read_traffic(uintptr_t address, Counters* counters) {
    Registry& memory = registry();
    std::lock_guard lock(memory.mutex);
    const auto found = memory.holder(address);
    if (found == memory.allocations.end()) return MemoryStatus::UnknownAddress;
    *counters = found->second.traffic;
    return MemoryStatus::Ok;
}

MemoryStatus reset_traffic(uintptr_t address) {
    Registry& memory = registry();
    std::lock_guard lock(memory.mutex);
    const auto found = memory.holder(address);
    if (found == memory.allocations.end()) return MemoryStatus::UnknownAddress;
    found->second.traffic = {};
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
    ranges_.clear();
    for (const auto& [begin, allocation] : memory.allocations) ranges_.push_back({begin, allocation.size, {}});
    std::fill(recent_, recent_ + RECENT, nothing());
}

Counters MemorySnapshot::merge() {
    Registry& memory = registry();
    std::lock_guard lock(memory.mutex);
    Counters total{};
    for (const Range& range : ranges_) {
        add(total, range.counters);
        const auto found = memory.allocations.find(range.begin);
        if (found != memory.allocations.end()) add(found->second.traffic, range.counters);
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
