// running_norm.wgsl: the norm of numbers as a workgroup of 256 goes over them, as RunningNorm in norm.cuh. Put in front of the
// shaders that do, behind norm.wgsl.

var<workgroup> plane: array<f32, 512>;

// Σ (x·power)² and Σ x·power·g of the numbers seen so far, where power is that of the largest: sums of 64 of sums of 64.
var<private> largest: u32;
var<private> seen: u32;
// Square and dot.
var<private> total: vec2<f32>;
var<private> middle: vec2<f32>;
var<private> part: vec2<f32>;

struct Norm {
    power: f32,
    factor: f32,
    dot: f32,
}

fn forget() {
    largest = 0u;
    seen = 0u;
    total = vec2<f32>(0.0);
    middle = vec2<f32>(0.0);
    part = vec2<f32>(0.0);
}

fn rise(to: u32) {
    // A quotient of powers of two, exact: division is not.
    let apart = clamp(to, 1u, 253u) - clamp(largest, 1u, 253u);
    let ratio = bitcast<f32>((127u - min(apart, 127u)) << 23u);
    let ratios = vec2<f32>(ratio * ratio, ratio);
    total *= ratios;
    middle *= ratios;
    part *= ratios;
    largest = to;
}

fn see(x: f32, g: f32) {
    let own = biased_exponent(x);
    if (own > largest) {
        rise(own);
    }
    let scaled = x * power_against(largest);
    part += vec2<f32>(scaled * scaled, scaled * g);
    seen += 1u;
    if ((seen & 63u) == 0u) {
        middle += part;
        part = vec2<f32>(0.0);
        if ((seen & 4095u) == 0u) {
            total += middle;
            middle = vec2<f32>(0.0);
        }
    }
}

fn over_workgroup(index: u32) -> Norm {
    plane[index] = f32(largest);
    workgroupBarrier();
    for (var half = 128u; half > 0u; half /= 2u) {
        if (index < half) {
            plane[index] = max(plane[index], plane[index + half]);
        }
        workgroupBarrier();
    }
    let exponent = u32(plane[0]);
    workgroupBarrier();
    rise(exponent);
    let own = total + (middle + part);
    plane[index] = own.x;
    plane[256u + index] = own.y;
    workgroupBarrier();
    for (var half = 128u; half > 0u; half /= 2u) {
        if (index < half) {
            plane[index] += plane[index + half];
            plane[256u + index] += plane[256u + index + half];
        }
        workgroupBarrier();
    }
    let norm = Norm(power_against(exponent), factor_of(exponent, plane[0]), plane[256]);
    workgroupBarrier();
    return norm;
}
