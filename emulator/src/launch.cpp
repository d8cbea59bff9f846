// Launching: the kernel list, the checks that a driver would make, and the OS threads that run the blocks.
#include <algorithm>
#include <chrono>
#include <new>
#include <numeric>
#include <thread>

#include "runtime.hpp"

namespace emulator {

namespace {

Kernel* kernels = nullptr;  // constant-initialised, so it is ready before any translation unit registers

/// Blocks between launches: their stacks and shared memory are worth keeping.
class BlockPool {
  public:
    std::unique_ptr<Block> take() {
        std::lock_guard lock(mutex_);
        if (idle_.empty()) return std::make_unique<Block>();
        std::unique_ptr<Block> block = std::move(idle_.back());
        idle_.pop_back();
        return block;
    }

    void give_back(std::unique_ptr<Block> block) {
        std::lock_guard lock(mutex_);
        if (idle_.size() < KEPT) idle_.push_back(std::move(block));
    }

  private:
    static constexpr size_t KEPT = 16;
    std::mutex mutex_;
    std::vector<std::unique_ptr<Block>> idle_;
};

BlockPool& pool() {
    static BlockPool* instance = new BlockPool;  // never destroyed: threads may outlive static destructors
    return *instance;
}

/// Visits 0..count-1 in the schedule's order without storing a permutation: i · step + start with step coprime to count.
class BlockOrder {
  public:
    BlockOrder(const Schedule& schedule, uint64_t count) : order_(schedule.order), count_(count) {
        if (order_ != Order::Random) return;
        Random random(schedule.seed);
        start_ = random.below(count);
        step_ = 1 + random.below(count);
        while (std::gcd(step_, count) != 1) ++step_;
    }

    uint64_t at(uint64_t position) const {
        switch (order_) {
            case Order::InOrder: return position;
            case Order::Reversed: return count_ - 1 - position;
            case Order::Random: break;
        }
        return static_cast<uint64_t>((static_cast<unsigned __int128>(position) * step_ + start_) % count_);
    }

  private:
    Order order_;
    uint64_t count_, start_ = 0, step_ = 1;
};

/// Runs blocks until none is left or one has faulted. Calls `between` before each.
template <typename Between>
void run_blocks(Launch& launch, const BlockOrder& order, Between between) {
    try {
        std::unique_ptr<Block> block = pool().take();
        block->prepare(launch);
        block->memory.take();
        block->latest = MemorySnapshot::nothing();
        const uint64_t count = launch.blocks();
        for (uint64_t position; !launch.stopped && (position = launch.next_block++) < count;) {
            between();
            block->run(order.at(position));
        }
        const Counters part = block->memory.merge();
        {
            std::lock_guard lock(launch.mutex);
            launch.counters += part;
        }
        pool().give_back(std::move(block));
    } catch (const std::bad_alloc&) {
        launch.record_fault({}, {}, "the host has no memory left for the emulator");
    }
}

}  // namespace

void register_kernel(Kernel* kernel) {
    kernel->next = kernels;
    kernels = kernel;
}

const Kernel* first_kernel() { return kernels; }

void Launch::record_fault(Uint3 block_index, Uint3 thread_index, std::string text) {
    std::lock_guard lock(mutex);
    stopped = true;
    if (faulted) return;
    faulted = true;
    fault = {block_index, thread_index, std::move(text)};
}

void run_launch(Launch& launch, size_t threads) {
    // Starting OS threads costs more than a small launch, and tests make thousands of those: call for others only when
    // the first blocks have taken longer than that.
    constexpr std::chrono::microseconds PATIENCE{100};
    const auto start = std::chrono::steady_clock::now();
    const BlockOrder order(launch.schedule, launch.blocks());
    const uint64_t workers = std::min<uint64_t>(std::max<size_t>(threads, 1), launch.blocks());
    std::vector<std::thread> others;
    bool called = workers == 1;
    run_blocks(launch, order, [&] {
        if (called || std::chrono::steady_clock::now() - start < PATIENCE) return;
        called = true;
        try {
            for (uint64_t i = 1; i < workers; ++i)
                others.emplace_back([&launch, &order] { run_blocks(launch, order, [] {}); });
        } catch (const std::exception&) {
            // No further OS thread to be had: the ones there are do all the blocks.
        }
    });
    for (std::thread& other : others) other.join();
}

}  // namespace emulator
