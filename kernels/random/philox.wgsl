// philox.wgsl: counter-based random words, the same on every backend; put in front of shaders that draw. As philox.cuh.
//
// A stream is vec4(seed low, seed high, offset low, offset high); block numbers are (low, high).

// The 64 bits of a · b, low word first.
fn product_words(a: u32, b: u32) -> vec2<u32> {
    let a_low = a & 0xffffu;
    let a_high = a >> 16u;
    let b_low = b & 0xffffu;
    let b_high = b >> 16u;
    let cross_0 = a_low * b_high;
    let cross_1 = a_high * b_low;
    let middle = ((a_low * b_low) >> 16u) + (cross_0 & 0xffffu) + (cross_1 & 0xffffu);
    return vec2<u32>(a * b, a_high * b_high + (cross_0 >> 16u) + (cross_1 >> 16u) + (middle >> 16u));
}

fn philox_rounds(start: vec4<u32>, start_key: vec2<u32>) -> vec4<u32> {
    var counter = start;
    var key = start_key;
    for (var round = 0u; round < 10u; round += 1u) {
        let a = product_words(0xd2511f53u, counter.x);
        let b = product_words(0xcd9e8d57u, counter.z);
        counter = vec4<u32>(b.y ^ counter.y ^ key.x, b.x, a.y ^ counter.w ^ key.y, a.x);
        key += vec2<u32>(0x9e3779b9u, 0xbb67ae85u);
    }
    return counter;
}

// Block `index` of a stream.
fn random_block(stream: vec4<u32>, index: vec2<u32>) -> vec4<u32> {
    return philox_rounds(vec4<u32>(index, stream.zw), stream.xy);
}

// Word `index` of a stream: word `index` mod 4 of block `index` / 4.
fn random_word(stream: vec4<u32>, index: vec2<u32>) -> u32 {
    let four = random_block(stream, vec2<u32>((index.x >> 2u) | (index.y << 30u), index.y >> 2u));
    let pair = select(four.xy, four.zw, (index.x & 2u) != 0u);
    return select(pair.x, pair.y, (index.x & 1u) != 0u);
}
