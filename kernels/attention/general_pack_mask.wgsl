// attention_general_pack_mask: a boolean mask as one bit a key, and for every tile of 32 × 32 whether it has a bit.
// Shapes    mask [b|1,hq|1,sq|1,sk|1] u8, any strides → plan: words [b|1][hq|1][sq|1][⌈sk/32⌉|1], tiles [..][⌈sq/32⌉|1][..]
// Mapping   workgroups of 64 over pairs of tiles; an invocation packs one line of one tile
// Shared    256 bytes
// Traffic   the mask once, an eighth of it written
// Why       a line of a tile is one word: the kernels skip tiles without a bit, and need no binding more
// Host      the plan holds it; offsets below 2³²
// Twin      none        Source  our own

struct Params {
    shape: vec4u,    // of the mask
    strides: vec4u,
    offset: u32,
    words: u32,      // of a line
    lines: u32,      // tiles of queries
    at_mask: u32,
    at_any: u32,
    tiles: u32,
    unused0: u32,
    unused1: u32,
}
@group(0) @binding(0) var<storage, read> mask: array<u32>;
@group(0) @binding(1) var<storage, read_write> plan: array<u32>;
@group(0) @binding(2) var<uniform> params: Params;

var<workgroup> seen: array<u32, 64>;

fn bit(at: u32) -> bool { return ((mask[at >> 2u] >> (8u * (at & 3u))) & 0xffu) != 0u; }

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) thread: u32,
) {
    for (var first = 2u * group.x; first < params.tiles; first += 2u * groups.x) {
        let tile = first + thread / 32u;
        let word_number = tile % params.words;
        let line_tile = tile / params.words % params.lines;
        let head = tile / (params.words * params.lines) % params.shape.y;
        let b = tile / (params.words * params.lines * params.shape.y);
        let row = 32u * line_tile + thread % 32u;
        var word = 0u;
        if (tile < params.tiles && row < params.shape.z) {
            let at = params.offset + b * params.strides.x + head * params.strides.y + row * params.strides.z;
            if (params.shape.w == 1u) {
                word = select(0u, 0xffffffffu, bit(at));
            } else {
                for (var j = 0u; j < min(32u, params.shape.w - 32u * word_number); j += 1u) {
                    if (bit(at + (32u * word_number + j) * params.strides.w)) { word |= 1u << j; }
                }
            }
            plan[params.at_mask + ((b * params.shape.y + head) * params.shape.z + row) * params.words + word_number] = word;
        }
        seen[thread] = word;
        workgroupBarrier();
        if (thread % 32u == 0u && tile < params.tiles) {
            var any = 0u;
            for (var i = 0u; i < 32u; i += 1u) { any |= seen[thread + i]; }
            plan[params.at_any + tile] = any;
        }
        workgroupBarrier();
    }
}
