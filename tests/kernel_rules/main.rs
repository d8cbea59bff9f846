//! Rules of `kernels/README.md` that no compiler enforces, checked on the kernels' text. Each rule is tested on a text that
//! breaks it.

mod headers;
mod pointers;
mod syntax;

use gatewarp::manifest;
use std::path::Path;

/// The one file that knows the hardware and the emulator.
const HARDWARE: &str = "device.cuh";

/// `path:line: …` for every inline assembly and every mention of the emulator.
fn hardware_violations(path: &str, text: &str) -> Vec<String> {
    let is_wrong =
        |word: &str| matches!(word, "asm" | "__asm" | "__asm__") || word.starts_with("GATEWARP_EMULATOR");
    let wrong = syntax::tokens(text).into_iter().filter(|token| is_wrong(token.text));
    wrong.map(|token| format!("{path}:{}: `{}` outside {HARDWARE}", token.line, token.text)).collect()
}

/// Whether the file holds kernels, and not what kernels share.
fn holds_kernels(path: &str, text: &str) -> bool {
    path.ends_with(".cu") || (path.ends_with(".wgsl") && text.contains("@compute"))
}

/// Every `.cu`, `.cuh` and `.wgsl` below `kernels/`, as (path below it, text), sorted.
fn kernel_files() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels");
    let mut found = Vec::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for item in std::fs::read_dir(&folder).expect("the folder of kernels can be listed") {
            let path = item.expect("the folder of kernels can be listed").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "cu" || e == "cuh" || e == "wgsl") {
                let name =
                    path.strip_prefix(&root).expect("found below it").to_string_lossy().replace('\\', "/");
                found.push((name, std::fs::read_to_string(&path).expect("kernels are text")));
            }
        }
    }
    found.sort();
    assert!(found.iter().any(|(path, _)| path == HARDWARE), "{} holds no {HARDWARE}", root.display());
    found
}

fn borrowed(files: &[(String, String)]) -> Vec<(&str, &str)> {
    files.iter().map(|(path, text)| (path.as_str(), text.as_str())).collect()
}

fn expect_none(violations: Vec<String>) {
    assert!(violations.is_empty(), "{} violations:\n  {}", violations.len(), violations.join("\n  "));
}

#[test]
fn only_one_file_knows_the_hardware() {
    let files = kernel_files();
    let others = files.iter().filter(|(path, _)| path != HARDWARE);
    expect_none(others.flat_map(|(path, text)| hardware_violations(path, text)).collect());
}

#[test]
fn global_memory_is_reached_through_its_functions() {
    let files = kernel_files();
    let is_checked = |path: &str| path != HARDWARE && (path.ends_with(".cu") || path.ends_with(".cuh"));
    let checked: Vec<_> = borrowed(&files).into_iter().filter(|(path, _)| is_checked(path)).collect();
    expect_none(pointers::violations(&checked));
}

#[test]
fn every_kernel_has_its_header() {
    let mut found = Vec::new();
    for (path, text) in kernel_files().iter().filter(|(path, text)| holds_kernels(path, text)) {
        let mut entries = headers::exports(text);
        entries.extend(manifest::cuda().filter(|row| row.file == path).map(|row| row.entry));
        entries.extend(manifest::wgsl().filter(|row| row.file == path).map(|row| row.entry));
        found.extend(headers::violations(path, text, &entries));
    }
    expect_none(found);
}

/// NVRTC finds no file by itself: what is not in the list cannot be included on a device, though the emulator finds it.
#[test]
fn every_header_is_in_the_manifest() {
    let files = kernel_files();
    let headers: Vec<_> = borrowed(&files).into_iter().filter(|(path, _)| path.ends_with(".cuh")).collect();
    let mut listed = manifest::CUDA_HEADERS.to_vec();
    listed.sort_unstable();
    assert!(listed == headers, "listed: {:?}", listed.iter().map(|(name, _)| name).collect::<Vec<_>>());
}

#[test]
fn twins_share_their_stem() {
    expect_none(headers::twins(&borrowed(&kernel_files())));
}

#[test]
fn hardware_in_other_files_is_found() {
    let clean = "// asm and GATEWARP_EMULATOR in comments\nint plasma; const char* s = \"asm\";";
    assert_eq!(hardware_violations("a.cu", clean), [""; 0]);
    assert_eq!(
        hardware_violations("a.cu", "void f() {\n  asm volatile(\"trap;\");\n}"),
        ["a.cu:2: `asm` outside device.cuh"]
    );
    assert_eq!(hardware_violations("a.cu", "__asm__(\"\");").len(), 1);
    assert_eq!(hardware_violations("a.cu", "#ifdef GATEWARP_EMULATOR\n#endif").len(), 1);
}

/// Lines with raw accesses in a kernel around `body`, which starts on line 2.
fn raw_accesses(before: &str, body: &str) -> usize {
    let text = format!(
        "{before}\nGW_KERNEL(32, 1) probe_f32(const float* in, float* out, Params p, int n) {{\n{body}\n}}\nGW_EXPORT(probe_f32)\n"
    );
    pointers::violations(&[("probe.cu", &text)]).len()
}

#[test]
fn raw_accesses_are_found() {
    for body in [
        "out[0] = 1.0f;",
        "float x = in[threadIdx.x];",
        "*out = 1.0f;",
        "float x = 2.0f * *in;",
        "return *in;",
        "float x = *(in + n);",
        "float x = *((in) + n);",
        "const float* row = in + n * 4;\nfloat x = row[1];",
        "const float* row = n ? nullptr : gw_pick(in);\nfloat x = *row;",
        "const auto row = in + n;\nfloat x = row[1];",
        "const float* a = in;\nconst float* b = a + 1;\nfor (const float* c = b; n; ++n) n += c[0];",
        "float4 x = *reinterpret_cast<const float4*>(in + n);",
        "float4 x = reinterpret_cast<const float4*>(in)[n];",
        "float4 x = *(const float4*)(in + n);",
        "int x = in->member;",
    ] {
        assert_eq!(raw_accesses("", body), 1, "{body}");
    }
    let callee = "GW_DEVICE float at(int i, const float* row) { return row[i]; }";
    assert_eq!(raw_accesses(callee, "float x = at(1, in + n);"), 1);
    let template = "template <int D> GW_DEVICE void put(float* to) { *to = D; }";
    assert_eq!(raw_accesses(template, "put<4>(out);"), 1);
    let member = "struct Row { const float* z; GW_DEVICE float at(int i) const { return z[i]; } };";
    assert_eq!(raw_accesses(member, ""), 1);
    assert_eq!(
        raw_accesses("struct Row { const float* z; };", "Row r{in};\nfloat x = *(r.z + 1) + r.z[0];"),
        1
    );
    let pasted =
        "#define KERNEL(D) \\\n  GW_KERNEL(32, 1) \\\n  probe_d##D(float* x) { x[0] = D; }\nKERNEL(1)";
    assert_eq!(pointers::violations(&[("probe.cu", pasted)]), ["probe.cu:3: `x` is a raw access to memory"]);
    let header = ("a.cuh", "GW_DEVICE float first(const float* x) { return *x; }");
    let kernel = ("b.cu", "GW_KERNEL(32, 1) k(const float* y) { first(y); }");
    assert_eq!(pointers::violations(&[header, kernel]), ["a.cuh:1: `x` is a raw access to memory"]);
}

#[test]
fn checked_accesses_and_own_memory_are_free() {
    for body in [
        "gw::store_global(out + n, gw::load_global(in + n));",
        "GW_SHARED(float, shared);\nshared[n] = gw::load_global(in + n) * shared[1];",
        "float local[4] = {};\nlocal[n] = n * 2.0f;\nfloat* mine = local;\nmine[1] = 0.0f;",
        "float x = p.in[2];",
        "const float* row = in ? in + n * (n + 1) : nullptr;\nif (row == nullptr) return;",
        "auto x = gw::load_global(in + n);\nfloat y = x * (n);",
        "int a = n * n, b = (n) * n;\nbool c = n < 3;\n(void)(a > b);",
    ] {
        assert_eq!(raw_accesses("", body), 0, "{body}");
    }
    let returned = "GW_DEVICE void kept(int k, bool* is_kept) { *is_kept = k > 0; }";
    assert_eq!(raw_accesses(returned, "bool kept_here;\nkept(n, &kept_here);"), 0);
    // An array of a function that is named as a structure's member is.
    let member = "struct Row { const float* z; };";
    assert_eq!(raw_accesses(member, "float z[4] = {};\nz[0] = z[1];"), 0);
    // A parameter of the same name in a function that is given its own memory.
    let other = "GW_DEVICE void local_only(float* out) { out[0] = 1.0f; }";
    assert_eq!(raw_accesses(other, "float mine[1];\nlocal_only(mine);\ngw::store_global(out, mine[0]);"), 0);
}

const HEADER: &str = "\
// probe_scale_f32: x *= factor.
// Shapes    x [n]
// Mapping   one thread an element
// Traffic   8 bytes an element
// Host      nothing
// Twin      src/probe/cpu.rs        Source  none
#include \"device.cuh\"
GW_EXPORT(probe_scale_f32)
";

#[test]
fn incomplete_headers_are_found() {
    assert_eq!(headers::exports(HEADER), ["probe_scale_f32"]);
    assert_eq!(headers::violations("a.cu", HEADER, &["probe_scale_f32", "probe_scale_f32_d64"]), [""; 0]);
    for key in ["Shapes", "Mapping", "Traffic", "Host", "Twin", "Source"] {
        let found = headers::violations("a.cu", &HEADER.replace(key, "Other"), &["probe_scale_f32"]);
        assert_eq!(found, [format!("a.cu: the header of probe_scale_f32 lacks [\"{key}\"]")]);
    }
    // A word in a sentence is not a line of the header.
    let found = headers::violations("a.cu", &HEADER.replace("Host      nothing", "// the Host is told"), &[]);
    assert_eq!(found.len(), 1);
    assert_eq!(
        headers::violations("a.cu", HEADER, &["probe_scaled_f32"]),
        ["a.cu: no header names probe_scaled_f32"]
    );
    assert_eq!(headers::violations("a.cu", "// Shapes  of things\nvoid f();", &[]).len(), 1);
    let several = HEADER.replace("probe_scale_f32:", "probe_{scale,shift}_f32_d{32,64}, probe_all:");
    let entries = ["probe_scale_f32_d32", "probe_shift_f32_d64", "probe_all"];
    assert_eq!(headers::violations("a.cu", &several, &entries), [""; 0]);
    assert_eq!(headers::violations("a.cu", &several, &["probe_scale_f32_d128"]).len(), 1);
}

#[test]
fn twins_under_other_stems_are_found() {
    let shader = HEADER.replace("probe_scale_f32", "probe_scale");
    assert_eq!(headers::twins(&[("probe/scale.cu", HEADER), ("probe/scale.wgsl", &shader)]), [""; 0]);
    let found = headers::twins(&[("probe/scale.cu", HEADER), ("probe/multiply.wgsl", &shader)]);
    assert_eq!(found, ["probe/scale.cu, probe/multiply.wgsl: both are probe_scale, under different stems"]);
    let unlike = HEADER.replace("probe_scale_f32", "probe_shift");
    assert_eq!(headers::twins(&[("probe/scale.cu", HEADER), ("probe/scale.wgsl", &unlike)]).len(), 1);
    assert_eq!(headers::twins(&[("probe/scale.cu", HEADER), ("probe/shift.wgsl", &unlike)]), [""; 0]);
}
