// runtime.hpp: the emulator's own view of launches, blocks and fibers. Kernels see only include/emulator.hpp.
#pragma once

#include <atomic>
#include <deque>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "context.hpp"
#include "emulator.hpp"

namespace emulator {

// ---------------------------------------------------------------------------------------------------- schedules

enum class Order : unsigned { InOrder = 0, Reversed = 1, Random = 2 };

struct Schedule {
    Order order;
    uint64_t seed;
};

/// xorshift64*, seeded through splitmix64 so that neighbouring seeds give unrelated sequences.
class Random {
  public:
    explicit Random(uint64_t seed);
    uint64_t next();
    uint64_t below(uint64_t bound) { return next() % bound; }

  private:
    uint64_t state_;
};

// -------------------------------------------------------------------------------------------------------- memory

/// A copy of the allocation registry, sorted by address, with counters of its own: no locks or atomics during a launch.
class MemorySnapshot {
  public:
    static constexpr size_t RECENT = 4;

    void take();
    /// Adds the counters to the registry's and returns their sum.
    Counters merge();
    /// The allocation that holds the bytes, or null. The most recent hits are tried first.
    Range* find(uintptr_t address, size_t bytes);
    /// Says where a bad address lies relative to the nearest allocation.
    std::string describe(uintptr_t address) const;
    /// Stands for "none yet" wherever a Range is expected.
    static Range* nothing();

  private:
    std::vector<Range> ranges_;
    Range* recent_[RECENT];
};

// -------------------------------------------------------------------------------------------------------- fibers

struct PendingCopy {
    void* destination;
    const void* source;  // null: fill with zeros
    unsigned bytes;
    unsigned group;
};

/// Sums that products under way write: where they are, and their values so far.
struct PendingSums {
    float* place;
    std::vector<float> values;
};

/// A thread's share of a product under way.
struct PendingProduct {
    uint64_t number;  // of the warpgroup's products
    size_t sums;      // index in Fiber::sums
    unsigned group;
    bool adds_up;
};

enum class State : uint8_t { Running, AtBarrier, InCollective, AtMbarrier, AtProducts, Exited };

struct Fiber : FiberView {
    Context context;
    State state;
    uint8_t barrier;        // number of the barrier it waits at
    Collective collective;  // kind of the collective it waits in
    unsigned committed_groups;
    std::vector<PendingCopy> copies;  // oldest first; not on the fiber's stack, which a fault abandons
    uint64_t issued_products;
    unsigned product_groups;  // committed
    std::vector<PendingProduct> products;  // oldest first
    std::vector<PendingSums> sums;

    Fiber()
        : FiberView{}, context{}, state(State::Exited), barrier(0), collective(Collective::None), committed_groups(0),
          issued_products(0), product_groups(0) {}
};

struct Rendezvous {
    uint32_t arrived, mask;
    Collective kind;
};

struct Warp {
    Rendezvous rendezvous[WARP_SIZE];  // by the lowest lane of the mask: disjoint groups may meet at the same time
};

struct Barrier {
    unsigned arrived, expected;
};

/// A load that a barrier's phase waits for.
struct PendingLoad {
    uint16_t* to;
    TensorMap map;
    int from[4];
};

/// A barrier in shared memory that counts arrivals and bytes.
struct Mbarrier {
    unsigned long long* word;
    unsigned count, arrived;
    int64_t bytes;  // expected and not yet there; below zero while a load is ahead of the arrival that expects it
    unsigned phase;
    std::vector<PendingLoad> loads;
    std::vector<Fiber*> waiting;
};

constexpr unsigned WARPGROUP = 128;

/// One product of a warpgroup: what the threads that have issued it agree on, then its result.
struct Product {
    unsigned columns;
    bool bf16, transposed, from_registers;
    uint64_t a, b;
    unsigned issued, taken;                   // threads
    std::vector<uint32_t> registers;          // [thread][4]
    std::vector<float> result;                // [thread][columns / 2], once it has been computed
};

/// The products of a warpgroup that some thread has not taken yet. Number `first` is at the front.
struct Warpgroup {
    uint64_t first = 0;
    std::deque<Product> products;
};

/// The fibers that can run. Every fiber is in it at most once, so a ring of the block's size never overflows.
class ReadyQueue {
  public:
    void reset(size_t capacity, Order order, uint64_t seed);
    void push(Fiber* fiber) { ring_[tail_++ & mask_] = fiber; }
    /// The next fiber under the schedule, or null.
    Fiber* pop();

  private:
    std::vector<Fiber*> ring_;
    size_t head_ = 0, tail_ = 0, mask_ = 0;
    Order order_ = Order::InOrder;
    Random random_{0};
};

// ------------------------------------------------------------------------------------------------ blocks, launches

struct FaultRecord {
    Uint3 block, thread;
    std::string message;
};

struct Launch {
    const Kernel* kernel;
    void* const* arguments;
    Uint3 grid, block;
    size_t shared_bytes;
    Schedule schedule;

    std::atomic<uint64_t> next_block{0};
    std::atomic<bool> stopped{false};
    std::mutex mutex;  // guards what follows
    bool faulted = false;
    FaultRecord fault{};
    Counters counters{};

    uint64_t blocks() const { return uint64_t{grid.x} * grid.y * grid.z; }
    unsigned threads() const { return block.x * block.y * block.z; }
    /// Keeps the first fault; the others are consequences or would have come later.
    void record_fault(Uint3 block_index, Uint3 thread_index, std::string message);
};

/// Everything one worker needs to run blocks, reused from launch to launch.
struct Block : BlockView {
    Launch* launch = nullptr;
    MemorySnapshot memory;
    std::vector<Fiber> fibers;
    std::vector<Warp> warps;
    Barrier barriers[BARRIERS];
    std::vector<Mbarrier> mbarriers;
    std::vector<Warpgroup> warpgroups;
    ReadyQueue ready;
    unsigned live = 0;
    Context worker;  // where the last fiber, or a fault, returns to

    Block();
    ~Block();
    Block(const Block&) = delete;
    Block& operator=(const Block&) = delete;

    /// Makes room for a launch's threads and shared memory.
    void prepare(Launch& launch);
    void run(uint64_t linear_index);

  private:
    struct Stacks;
    std::unique_ptr<Stacks> stacks_;
    struct FreeDeleter {
        void operator()(unsigned char* memory) const;
    };
    std::unique_ptr<unsigned char, FreeDeleter> shared_memory_;
    size_t shared_capacity_ = 0;
};

inline Fiber* current_fiber() { return static_cast<Fiber*>(current); }
inline Block* current_block() { return static_cast<Block*>(current->block); }

/// Lets loads arrive that nobody waits for yet: true if a fiber can run then.
bool finish_loads(Block& block);
/// What fiber `from` has left undone at its end: null if nothing.
const char* unfinished(const Fiber& fiber);

/// Continues with another fiber; returns when this one is popped from the ready queue again.
void yield_fiber();

// --------------------------------------------------------------------------------------------- device memory (host side)

/// Bytes of emulated device memory: more than any test needs, little enough that a runaway size fails as on a device.
constexpr size_t DEVICE_MEMORY_BYTES = size_t{4} << 30;

enum class MemoryStatus : unsigned { Ok = 0, UnknownAddress = 1, OutOfBounds = 2, GuardOverwritten = 3 };

/// Returns null when the device memory is exhausted.
unsigned char* allocate(size_t bytes);
/// Releases the allocation even when its guard was overwritten; `offset` then says where, relative to the address.
MemoryStatus release(uintptr_t address, ptrdiff_t* offset);
/// Whether the bytes lie in one allocation.
MemoryStatus check_span(uintptr_t address, size_t bytes);
MemoryStatus read_traffic(uintptr_t address, Counters* counters);
MemoryStatus reset_traffic(uintptr_t address);

/// Runs all blocks of a launch on at most `threads` OS threads.
void run_launch(Launch& launch, size_t threads);

const Kernel* first_kernel();

}  // namespace emulator
