// philox.cuh: counter-based random words, the same on every backend. Twins: src/random.rs, kernels/random/philox.wgsl.
//
// Block `index` of a stream is Philox4x32-10 of the counter {index, offset} under the key `seed`, each 64 bits, low word
// first: any thread computes any word without the ones before it.
// Source: Salmon, Moraes, Dror & Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
#pragma once
#include "device.cuh"

namespace philox {

using gw::u32;
using gw::u64;

/// Four random words.
struct Block {
    u32 x, y, z, w;
};

/// A stream: 64 bits of seed and of offset, each low word first, as they lie in device memory.
struct Stream {
    u32 seed_low, seed_high, offset_low, offset_high;
};

/// The stream that four words of global memory name.
GW_DEVICE Stream load_stream(const u32* words) {
    return {gw::load_global_cached(words), gw::load_global_cached(words + 1), gw::load_global_cached(words + 2),
            gw::load_global_cached(words + 3)};
}

/// Philox4x32-10 of the counter {x, y, z, w}.
GW_DEVICE Block rounds(Block counter, u32 key_0, u32 key_1) {
#pragma unroll
    for (int round = 0; round < 10; ++round) {
        const u64 a = static_cast<u64>(0xd2511f53u) * counter.x;
        const u64 b = static_cast<u64>(0xcd9e8d57u) * counter.z;
        counter = {static_cast<u32>(b >> 32) ^ counter.y ^ key_0, static_cast<u32>(b),
                   static_cast<u32>(a >> 32) ^ counter.w ^ key_1, static_cast<u32>(a)};
        key_0 += 0x9e3779b9u;
        key_1 += 0xbb67ae85u;
    }
    return counter;
}

/// Block `index` of a stream.
GW_DEVICE Block block(Stream stream, u64 index) {
    const Block counter = {static_cast<u32>(index), static_cast<u32>(index >> 32), stream.offset_low, stream.offset_high};
    return rounds(counter, stream.seed_low, stream.seed_high);
}

/// Word `index` of a stream: word `index` mod 4 of block `index` / 4.
GW_DEVICE u32 word(Stream stream, u64 index) {
    const Block four = block(stream, index >> 2);
    switch (index & 3u) {
        case 0: return four.x;
        case 1: return four.y;
        case 2: return four.z;
        default: return four.w;
    }
}

}  // namespace philox
