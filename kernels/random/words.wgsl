// random_words: words first, first + 1, … of a stream of random words.
// Shapes    stream [4] u32: seed and offset, low words first; words [count] u32
// Mapping   persistent, workgroup 256; an invocation owns a word
// Traffic   4 bytes a word
// Host      count < 2^31
// Twin      src/random.rs        Source  Salmon et al., SC 2011 (Philox4x32-10)
struct Params {
    stream_first: u32, words_first: u32,
    first_low: u32, first_high: u32, count: u32,
}
@group(0) @binding(0) var<storage, read> source: array<u32>;
@group(0) @binding(1) var<storage, read_write> words: array<u32>;
@group(0) @binding(2) var<uniform> params: Params;

@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>) {
    let at = params.stream_first;
    let stream = vec4<u32>(source[at], source[at + 1u], source[at + 2u], source[at + 3u]);
    for (var i = id.x; i < params.count; i += workgroups.x * 256u) {
        let low = params.first_low + i;
        let high = params.first_high + select(0u, 1u, low < i);
        words[params.words_first + i] = random_word(stream, vec2<u32>(low, high));
    }
}
