// Launching: the kernel list, the checks that a driver would make, and the OS threads that run the blocks.
#include <cstdio>
#include <new>
#include <numeric>
#include <string_view>
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

void run_worker(Launch& launch, const BlockOrder& order) {
    try {
        std::unique_ptr<Block> block = pool().take();
        block->prepare(launch);
        block->memory.take();
        block->latest = MemorySnapshot::nothing();
        const uint64_t count = launch.blocks();
        for (uint64_t position; !launch.stopped && (position = launch.next_block++) < count;)
            block->run(order.at(position));
        const Counters part = block->memory.merge();
        {
            std::lock_guard lock(launch.mutex);
            launch.counters.bytes_loaded += part.bytes_loaded;
            launch.counters.bytes_stored += part.bytes_stored;
            launch.counters.loads += part.loads;
            launch.counters.stores += part.stores;
        }
        pool().give_back(std::move(block));
    } catch (const std::bad_alloc&) {
        launch.record_fault({}, {}, "the host has no memory left for the emulator's stacks");
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
    const BlockOrder order(launch.schedule, launch.blocks());
    const uint64_t workers = std::min<uint64_t>(std::max<size_t>(threads, 1), launch.blocks());
    std::vector<std::thread> others;
    for (uint64_t i = 1; i < workers; ++i) {
        try {
            others.emplace_back(run_worker, std::ref(launch), std::cref(order));
        } catch (const std::exception&) {
            break;  // no further OS thread to be had: the ones there are do all the blocks
        }
    }
    run_worker(launch, order);
    for (std::thread& other : others) other.join();
}

}  // namespace emulator
