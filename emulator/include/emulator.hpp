// emulator.hpp: what a kernel compiled for the CPU calls. Included by kernels/device.cuh and by nothing else outside emulator/.
//
// A CUDA block runs on one OS thread, one fiber per CUDA thread. A fiber runs until it must wait for others (a barrier, a
// warp collective); only then does another one run, in the order that the launch's schedule says. So a kernel has no data
// races on the CPU, and a missing barrier shows as a wrong value under some schedule rather than now and then.
//
// Every misuse ends in fault(), which stops the launch and never returns to the kernel.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#include "cuda_dialect.hpp"

namespace emulator {

constexpr unsigned WARP_SIZE = 32;
constexpr unsigned BARRIERS = 16;  // hardware barriers of a block; sync_threads is number 0
constexpr unsigned char POISON = 0xFF;  // NaN in every float format, and an index that is out of bounds everywhere

struct Uint3 {
    unsigned x, y, z;
};

struct Counters {
    uint64_t bytes_loaded, bytes_stored, loads, stores;

    Counters& operator+=(const Counters& part) {
        bytes_loaded += part.bytes_loaded;
        bytes_stored += part.bytes_stored;
        loads += part.loads;
        stores += part.stores;
        return *this;
    }
};

/// One allocation as a worker sees it during a launch; counted without atomics, merged when the worker ends.
struct Range {
    uintptr_t begin;
    size_t size;
    Counters counters;

    bool contains(uintptr_t address, size_t bytes) const {
        const uintptr_t offset = address - begin;  // wraps to a huge value below `begin`
        return offset < size && bytes <= size - offset;
    }
};

[[noreturn, gnu::cold, gnu::format(printf, 1, 2)]] void fault(const char* format, ...);

// ---------------------------------------------------------------------------------------------- block and thread

/// The part of a block that kernels read; the scheduler's Block (runtime.hpp) extends it.
struct BlockView {
    Uint3 block_index, block_size, grid_size;
    unsigned char* shared;
    size_t shared_bytes;
    Range* latest;  // the allocation of the last access: most kernels read the same one again
};

/// The part of a fiber that kernels read; the scheduler's Fiber (runtime.hpp) extends it.
struct FiberView {
    Uint3 thread_index;
    unsigned linear;  // index in the block
    BlockView* block;
    const void* input;  // what this lane brings to the warp collective it waits in
    void* output;       // where the last lane to arrive writes this lane's result
};

extern __thread FiberView* current;  // __thread, not thread_local: no initialisation wrapper on the hot path
inline FiberView* self() { return current; }
inline unsigned lane() { return self()->linear % WARP_SIZE; }

// ------------------------------------------------------------------------------------------------- global memory

/// Finds the allocation of an access that `latest` does not cover, or faults.
Range& find_range(uintptr_t address, size_t bytes, const char* what);
[[noreturn]] void fault_misaligned(const void* pointer, size_t bytes, const char* what);

template <typename T>
inline Range& checked_range(const T* pointer, const char* what) {
    static_assert(sizeof(T) == 1 || sizeof(T) == 2 || sizeof(T) == 4 || sizeof(T) == 8 || sizeof(T) == 16,
                  "the hardware moves 1, 2, 4, 8 or 16 bytes at a time");
    const uintptr_t address = reinterpret_cast<uintptr_t>(pointer);
    if (address % sizeof(T) != 0) fault_misaligned(pointer, sizeof(T), what);
    Range* latest = self()->block->latest;
    return latest->contains(address, sizeof(T)) ? *latest : find_range(address, sizeof(T), what);
}

template <typename T>
inline T load_global(const T* pointer) {
    Counters& counters = checked_range(pointer, "global load").counters;
    counters.bytes_loaded += sizeof(T);
    counters.loads += 1;
    return *pointer;
}

template <typename T>
inline void store_global(T* pointer, T value) {
    Counters& counters = checked_range(pointer, "global store").counters;
    counters.bytes_stored += sizeof(T);
    counters.stores += 1;
    *pointer = value;
}

/// Counts a read-modify-write and returns the checked pointer; blocks on other workers may update the same word.
template <typename T>
inline T* atomic_target(T* pointer) {
    Counters& counters = checked_range(pointer, "global atomic").counters;
    counters.bytes_loaded += sizeof(T);
    counters.bytes_stored += sizeof(T);
    counters.loads += 1;
    counters.stores += 1;
    return pointer;
}

// ------------------------------------------------------------------------------------------------- shared memory

[[noreturn, gnu::cold]] void fault_shared(long long index, long long count, size_t element_bytes);

/// A typed window of the block's shared memory; every access is checked against the window.
template <typename T>
class Shared {
  public:
    Shared() : base_(nullptr), count_(0) {}
    Shared(T* base, long long count) : base_(base), count_(count) {}

    T& operator[](long long index) const {
        if (static_cast<unsigned long long>(index) >= static_cast<unsigned long long>(count_))
            fault_shared(index, count_, sizeof(T));
        return base_[index];
    }

    Shared slice(long long offset) const { return slice(offset, count_ - offset); }
    Shared slice(long long offset, long long count) const {
        if (offset < 0 || count < 0 || offset > count_ || count > count_ - offset)
            fault("shared slice of %lld elements at %lld leaves its window of %lld elements", count, offset, count_);
        return Shared(base_ + offset, count);
    }

    template <typename U>
    Shared<U> cast() const {
        if (reinterpret_cast<uintptr_t>(base_) % alignof(U) != 0) fault_misaligned(base_, alignof(U), "shared cast");
        return Shared<U>(reinterpret_cast<U*>(base_), count_ * static_cast<long long>(sizeof(T)) / static_cast<long long>(sizeof(U)));
    }

    /// Checks a 16-byte access at `index` and returns its address.
    template <typename Vector>
    Vector* vector_at(long long index) const {
        static_assert(sizeof(Vector) % sizeof(T) == 0);
        constexpr long long width = sizeof(Vector) / sizeof(T);
        if (index < 0 || index > count_ - width) fault_shared(index, count_, sizeof(T));
        if (reinterpret_cast<uintptr_t>(base_ + index) % sizeof(Vector) != 0)
            fault_misaligned(base_ + index, sizeof(Vector), "shared vector access");
        return reinterpret_cast<Vector*>(base_ + index);
    }

    float4 load4(long long index) const {
        static_assert(sizeof(T) == 4);
        return *vector_at<float4>(index);
    }
    void store4(long long index, float4 value) const {
        static_assert(sizeof(T) == 4);
        *vector_at<float4>(index) = value;
    }

    T* data() const { return base_; }
    long long count() const { return count_; }

  private:
    T* base_;
    long long count_;
};

template <typename T>
inline Shared<T> dynamic_shared() {
    BlockView* block = self()->block;
    return Shared<T>(reinterpret_cast<T*>(block->shared), static_cast<long long>(block->shared_bytes / sizeof(T)));
}

// ------------------------------------------------------------------------------------------- barriers, collectives

/// Waits until `threads` threads of the block have arrived at barrier `id`.
void barrier(unsigned id, unsigned threads);
unsigned block_threads();

enum class Collective : uint8_t { None, SyncWarp, ShuffleXor, Shuffle, ShuffleUp, ShuffleDown, Ballot, LoadMatrix, LoadTransposed, Multiply };

/// Announces this lane at a collective of the lanes in `mask`. True for the last lane to arrive, which then computes
/// every lane's result and calls leave_collective; the others return false once their result is there.
bool join_collective(Collective kind, uint32_t mask);
void leave_collective(uint32_t mask);
FiberView* lane_of_warp(unsigned lane);

void sync_warp(uint32_t mask);
uint32_t ballot(bool predicate, uint32_t mask);

template <typename T>
struct ShuffleInput {
    T value;
    unsigned argument;
};

/// The lane that `lane` reads from; a shift that leaves the warp reads the lane itself, as the hardware does.
inline unsigned shuffle_source(Collective kind, unsigned lane, unsigned argument) {
    switch (kind) {
        case Collective::ShuffleXor: return (lane ^ argument) % WARP_SIZE;
        case Collective::ShuffleUp: return argument <= lane ? lane - argument : lane;
        case Collective::ShuffleDown: return argument < WARP_SIZE - lane ? lane + argument : lane;
        default: return argument % WARP_SIZE;
    }
}

template <typename T>
inline T shuffle(Collective kind, T value, unsigned argument, uint32_t mask) {
    const ShuffleInput<T> input{value, argument};
    T output;
    self()->input = &input;
    self()->output = &output;
    if (join_collective(kind, mask)) {
        for (unsigned lane = 0; lane < WARP_SIZE; ++lane) {
            if (!(mask >> lane & 1)) continue;
            FiberView* reader = lane_of_warp(lane);
            const unsigned source =
                shuffle_source(kind, lane, static_cast<const ShuffleInput<T>*>(reader->input)->argument);
            if (!(mask >> source & 1)) fault("lane %u shuffles from lane %u, which does not take part", lane, source);
            *static_cast<T*>(reader->output) = static_cast<const ShuffleInput<T>*>(lane_of_warp(source)->input)->value;
        }
        leave_collective(mask);
    }
    return output;
}

// ---------------------------------------------------------------------------------------------------- matrix units

/// Lane 8m + r brings row r of matrix m, eight 16-bit elements. Lane 4g + t gets of each matrix elements (g, 2t) and
/// (g, 2t + 1) as one word, the first low; with `transposed` (2t, g) and (2t + 1, g).
void ldmatrix_x4(uint32_t (&out)[4], const void* row, bool transposed);

/// c += a · b. `terms` are lane 4g + t's elements, widened: of a (16 × 16) rows g and g + 8 in columns 2t, 2t + 1, then both rows
/// in columns 2t + 8, 2t + 9; of b (16 × 8) column g in rows 2t, 2t + 1, 2t + 8, 2t + 9. `c` holds columns 2t, 2t + 1 of rows g
/// and g + 8.
void mma_m16n8k16(float (&c)[4], const float (&terms)[12]);

// --------------------------------------------------------------------------------------------------- asynchronous copy

/// Starts a copy of `bytes` (4 or 16): the destination is poisoned now and filled by cp_async_wait. With `source` null
/// the destination is filled with zeros.
void cp_async(void* destination, const void* source, unsigned bytes);
void cp_async_commit();
/// Completes all but the `pending` youngest committed groups.
void cp_async_wait(unsigned pending);

// ------------------------------------------------------------------------- asynchronous units (compute capability 9.0)

/// What the host says of a tensor for tensor_load, in the place of the driver's 128 opaque bytes; src/lib.rs fills it in.
struct alignas(64) TensorMap {
    uint64_t magic;      // MAGIC, or it is no map
    uint64_t address;
    uint64_t sizes[4];   // in elements of two bytes, innermost first
    uint64_t strides[3]; // in bytes, of dimensions 1 to 3
    uint32_t box[4];     // in elements
    uint64_t unused[5];
    static constexpr uint64_t MAGIC = 0x70616d726f736e74u;
};

void mbarrier_init(unsigned long long* word, unsigned count);
/// Arrives after it has raised by `bytes` what the phase expects.
void mbarrier_arrive(unsigned long long* word, unsigned bytes);
void mbarrier_wait(unsigned long long* word, unsigned parity);
/// Poisons the tile now and fills it as late as possible: when a thread waits at the barrier, or nothing else can run.
void tensor_load(uint16_t* to, long long count, const TensorMap& map, unsigned long long* word, int column, int row, int head, int batch);

/// Bytes from the start of the block's shared memory.
uint32_t shared_offset(const void* pointer);
/// Issues this thread's share of a product. `c`, N/2 sums, is poisoned until a wait covers it; operands in shared memory are
/// read when the first thread of the warpgroup waits for the product, those in registers now. One of `a` and `registers`.
void wgmma(float* c, unsigned columns, bool bf16, bool transposed, const unsigned long long* a, const uint32_t* registers, uint64_t b, bool adds_up);
void wgmma_commit();
void wgmma_wait(unsigned pending);

// ------------------------------------------------------------------------------------------------------------- kernels

/// One exported kernel. Registered by a static object of its translation unit, so the list is complete before main.
struct Kernel {
    const char* entry;
    const char* source;  // the file, relative to the repository root
    const size_t* argument_sizes;
    size_t argument_count;
    void (*invoke)(void (*body)(), void* const* arguments);
    void (*body)();
    Kernel* next;
};

void register_kernel(Kernel* kernel);

template <typename... Arguments>
class Export {
  public:
    Export(const char* entry, const char* source, void (*body)(Arguments...))
        : kernel_{entry, source, sizes_, sizeof...(Arguments), invoke, reinterpret_cast<void (*)()>(body), nullptr} {
        register_kernel(&kernel_);
    }

  private:
    static void invoke(void (*body)(), void* const* arguments) {
        call(reinterpret_cast<void (*)(Arguments...)>(body), arguments, std::index_sequence_for<Arguments...>{});
    }

    template <size_t... I>
    static void call(void (*body)(Arguments...), void* const* arguments, std::index_sequence<I...>) {
        (void)arguments;  // unused by a kernel without arguments
        body(*static_cast<std::remove_cv_t<Arguments>*>(arguments[I])...);
    }

    static constexpr size_t sizes_[sizeof...(Arguments) + 1] = {sizeof(Arguments)..., 0};
    Kernel kernel_;
};

}  // namespace emulator
