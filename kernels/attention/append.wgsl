// attention_append: new keys, or new values, behind those a cache holds: row n of sample b becomes key kv_len[b] + n.
// Shapes    cache [b,h,slots,D] or pages [page,h,row,D] with table [b, pages]; fresh [b,h,new,D], elements of 16 or 32 bits, any
//           strides, last = 1; kv_len [b]
// Mapping   persistent workgroups of 64 over rows (b, h, new); a thread has every 64th word of the row's place in the cache
// Traffic   fresh once in, once out
// Numerics  none: bits are copied. A word at either end of a row of 16-bit elements may be half another row's, which keeps its half
// Host      rejects views beyond 2³² elements, slots > 2³⁰; a length without room, or a page outside the cache, is reported and
//           not written. Two launches, for the keys and for the values: both caches may lie in one buffer
// Twin      src/attention/cpu/append.rs        Source  our own

struct Params {
    batch: u32,
    heads: u32,
    new_rows: u32,
    dim: u32,
    slots: u32,
    page_rows: u32,  // 0: not paged
    pages: u32,
    halves: u32,     // 1: elements of 16 bits
    cache: vec4u,    // offset, then strides over sample or page, head and row, in elements
    fresh: vec4u,
    length: vec4u,   // element type of kv_len, first element, step
    table: vec4u,    // element type, first element, steps over samples and pages
}
@group(0) @binding(0) var<storage, read_write> cache: array<atomic<u32>>;
@group(0) @binding(1) var<storage, read> fresh: array<u32>;
@group(0) @binding(2) var<storage, read> kv_len: array<u32>;
@group(0) @binding(3) var<storage, read> page_table: array<u32>;
@group(0) @binding(4) var<storage, read_write> status: array<atomic<u32>>;
@group(0) @binding(5) var<uniform> params: Params;

fn half_at(i: u32) -> u32 { return (fresh[i >> 1u] >> (16u * (i & 1u))) & 0xffffu; }

fn copy_words(to: u32, start: u32, thread: u32) {
    for (var i = thread; i < params.dim; i += 64u) { atomicStore(&cache[to + i], fresh[start + i]); }
}

// One thread for every word that the row touches.
fn copy_halves(to: u32, start: u32, thread: u32) {
    let stop = to + params.dim;
    for (var word = (to >> 1u) + thread; word <= (stop - 1u) >> 1u; word += 64u) {
        let element = 2u * word;
        var own = 0u;
        var bits = 0u;
        if (element >= to) {
            own = 0xffffu;
            bits = half_at(start + (element - to));
        }
        if (element + 1u < stop) {
            own |= 0xffff0000u;
            bits |= half_at(start + (element + 1u - to)) << 16u;
        }
        if (own == 0xffffffffu) {
            atomicStore(&cache[word], bits);
        } else {
            atomicAnd(&cache[word], ~own);
            atomicOr(&cache[word], bits);
        }
    }
}

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) thread: u32,
) {
    for (var row = group.x; row < params.batch * params.heads * params.new_rows; row += groups.x) {
        let n = row % params.new_rows;
        let h = row / params.new_rows % params.heads;
        let b = row / params.new_rows / params.heads;
        let at = params.length.y + b * params.length.z;
        let kind = params.length.x;
        let length = id_value(kind, kv_len[id_low(kind, at)], kv_len[id_high(kind, at)]);
        if (length < 0 || length > i32(params.slots) - i32(params.new_rows)) {
            if (thread == 0u) { atomicOr(&status[STATUS_LENGTH], 1u); }
            continue;
        }
        let key = u32(length) + n;
        var to = params.cache.x + h * params.cache.z;
        if (params.page_rows == 0u) {
            to += b * params.cache.y + key * params.cache.w;
        } else {
            let entry = params.table.y + b * params.table.z + key / params.page_rows * params.table.w;
            let page = id_value(params.table.x, page_table[id_low(params.table.x, entry)], page_table[id_high(params.table.x, entry)]);
            // As unsigned, a negative page is too large.
            if (bitcast<u32>(page) >= params.pages) {
                if (thread == 0u) { atomicOr(&status[STATUS_PAGE], 1u); }
                continue;
            }
            to += u32(page) * params.cache.y + key % params.page_rows * params.cache.w;
        }
        let start = params.fresh.x + b * params.fresh.y + h * params.fresh.z + n * params.fresh.w;
        if (params.halves == 0u) { copy_words(to, start, thread); } else { copy_halves(to, start, thread); }
    }
}
