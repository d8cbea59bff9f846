// random_words: words first, first + 1, … of a stream of random words.
// Shapes    stream [4] u32: seed and offset, low words first; words [count] u32
// Mapping   persistent, block 256; a thread owns a word
// Traffic   4 bytes a word
// Host      count < 2^31
// Twin      src/random.rs        Source  Salmon et al., SC 2011 (Philox4x32-10)
#include "device.cuh"
#include "random/philox.cuh"

namespace {

struct WordsParams {
    gw::u32 stream_first, words_first;  // offsets for shaders; pointers include them
    gw::u32 first_low, first_high, count;
};

}  // namespace

GW_KERNEL(256, 4) random_words(const gw::u32* stream, gw::u32* words, WordsParams p) {
    const philox::Stream named = philox::load_stream(stream);
    const gw::u64 first = static_cast<gw::u64>(p.first_high) << 32 | p.first_low;
    for (gw::u32 i = blockIdx.x * 256u + threadIdx.x; i < p.count; i += gridDim.x * 256u) {
        gw::store_global(words + i, philox::word(named, first + i));
    }
}
GW_EXPORT(random_words)
