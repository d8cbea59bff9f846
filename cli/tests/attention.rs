//! `gatewarp attention` as a user runs it.

use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A folder of this test's own, gone afterwards.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("gatewarp-attention-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).expect("a folder for test files");
        Self(path)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What is left behind in the temporary folder harms nobody.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

type Named<'a> = (&'a str, Dtype, Vec<usize>, Vec<u8>);

fn floats(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|x| x.to_le_bytes()).collect()
}

fn save(path: &Path, tensors: &[Named<'_>]) {
    let views = tensors.iter().map(|(name, dtype, shape, bytes)| {
        (*name, TensorView::new(*dtype, shape.clone(), bytes).expect("a tensor"))
    });
    std::fs::write(path, safetensors::serialize(views, None).expect("tensors")).expect("a file");
}

fn load(path: &Path, name: &str) -> (Vec<usize>, Vec<f32>) {
    let bytes = std::fs::read(path).expect("the output file");
    let file = SafeTensors::deserialize(&bytes).expect("a safetensors file");
    let tensor = file.tensor(name).unwrap_or_else(|_| panic!("{name} is not among {:?}", file.names()));
    let (chunks, _) = tensor.data().as_chunks::<4>();
    (tensor.shape().to_vec(), chunks.iter().map(|&chunk| f32::from_le_bytes(chunk)).collect())
}

fn names(path: &Path) -> Vec<String> {
    let bytes = std::fs::read(path).expect("output file");
    let file = SafeTensors::deserialize(&bytes).expect("a safetensors file");
    let mut names: Vec<String> = file.names().into_iter().map(|name| name.to_string()).collect();
    names.sort();
    names
}

fn gatewarp(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gatewarp"));
    command.arg("attention").args(arguments).env_remove("GATEWARP_DEVICE");
    command.output().expect("the command runs")
}

fn run(arguments: &[&str]) -> String {
    let output = gatewarp(arguments);
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("UTF-8")
}

fn wave(n: usize, step: f32) -> Vec<f32> {
    (0..n).map(|i| (i as f32 * step).sin()).collect()
}

/// One head, `len` queries and keys of `dim`: q, k, v and do.
fn inputs(len: usize, dim: usize) -> Vec<Named<'static>> {
    let shape = vec![1, 1, len, dim];
    [("q", 0.7), ("k", 0.31), ("v", 1.3), ("do", 0.17)]
        .into_iter()
        .map(|(name, step)| (name, Dtype::F32, shape.clone(), floats(&wave(len * dim, step))))
        .collect()
}

/// Outputs of causal attention from the first position on, as the formula says.
fn causal(len: usize, dim: usize, scale: f64) -> Vec<f64> {
    let [q, k, v] = [0.7, 0.31, 1.3].map(|step| wave(len * dim, step));
    let mut out = Vec::new();
    for i in 0..len {
        let row =
            |x: &[f32], i: usize| -> Vec<f64> { x[i * dim..][..dim].iter().map(|&x| x.into()).collect() };
        let score = |j: usize| -> f64 { row(&q, i).iter().zip(row(&k, j)).map(|(a, b)| a * b).sum() };
        let weights: Vec<f64> = (0..=i).map(|j| (scale * score(j)).exp()).collect();
        let total: f64 = weights.iter().sum();
        out.extend(
            (0..dim).map(|d| weights.iter().enumerate().map(|(j, w)| w * row(&v, j)[d]).sum::<f64>() / total),
        );
    }
    out
}

#[test]
fn writes_outputs_and_gradients() {
    let folder = Folder::new("gradients");
    let (input, output) = (folder.file("in.safetensors"), folder.file("out.safetensors"));
    save(&input, &inputs(37, 16));
    let (from, to) = (input.to_str().expect("a path"), output.to_str().expect("a path"));
    let text =
        run(&[from, to, "--causal", "--query-offset", "0", "--scale", "0.5", "--dscale", "--device", "cpu"]);
    assert!(text.contains("forward") && text.contains("backward") && text.contains("GFLOP/s"), "{text}");
    let (shape, o) = load(&output, "o");
    assert_eq!(shape, [1, 1, 37, 16]);
    for (got, want) in o.iter().zip(causal(37, 16, 0.5)) {
        assert!((f64::from(*got) - want).abs() < 1e-5, "{got}, expected {want}");
    }
    for (name, shape) in [
        ("lse", vec![1, 1, 37]),
        ("dq", vec![1, 1, 37, 16]),
        ("dk", vec![1, 1, 37, 16]),
        ("dv", vec![1, 1, 37, 16]),
        ("dscale", vec![1]),
    ] {
        let (got, values) = load(&output, name);
        assert_eq!(got, shape, "{name}");
        assert!(values.iter().all(|x| x.is_finite()) && values.iter().any(|&x| x != 0.0), "{name}");
    }
}

#[test]
fn json_has_the_times_and_the_device() {
    let folder = Folder::new("json");
    let (input, output) = (folder.file("in.safetensors"), folder.file("out.safetensors"));
    save(&input, &inputs(8, 4));
    let (from, to) = (input.to_str().expect("a path"), output.to_str().expect("a path"));
    let text = run(&[from, to, "--device", "cpu", "--repeat", "3", "--json"]);
    let report: Value = serde_json::from_str(&text).expect("JSON");
    for field in ["forward_s", "backward_s"] {
        assert!(report[field].as_f64().is_some_and(|seconds| seconds > 0.0), "{field}: {report}");
    }
    assert!(report["device"].as_str().is_some_and(|name| name.starts_with("CPU")), "{report}");
    // The gradient of the scale was not asked for.
    assert_eq!(names(&output), ["dk", "dq", "dv", "lse", "o"]);
}

#[test]
fn every_optional_tensor_is_read_by_name() {
    let folder = Folder::new("options");
    let (input, output) = (folder.file("in.safetensors"), folder.file("out.safetensors"));
    let mut tensors = inputs(6, 4);
    tensors.push(("bias", Dtype::F32, vec![1, 1, 6, 6], floats(&wave(36, 0.9))));
    tensors.push(("mask", Dtype::BOOL, vec![1, 1, 1, 6], vec![1, 1, 0, 1, 1, 1]));
    tensors.push(("kv_len", Dtype::I32, vec![1], 5i32.to_le_bytes().to_vec()));
    tensors.push(("sinks", Dtype::F32, vec![1], floats(&[0.3])));
    tensors.push(("alibi", Dtype::F32, vec![1], floats(&[0.25])));
    save(&input, &tensors);
    let (from, to) = (input.to_str().expect("a path"), output.to_str().expect("a path"));
    run(&[from, to, "--device", "cpu", "--window", "3,inf", "--softcap", "20"]);
    let (shape, dbias) = load(&output, "dbias");
    assert_eq!(shape, [1, 1, 6, 6]);
    // Key 2 is masked and key 5 does not exist: nothing flows there.
    assert!((0..6).all(|i| dbias[i * 6 + 2] == 0.0 && dbias[i * 6 + 5] == 0.0), "{dbias:?}");
    assert!(dbias.iter().any(|&x| x != 0.0));
    for name in ["dsinks", "dalibi"] {
        assert_eq!(load(&output, name).0, [1]);
    }
}

#[test]
fn what_is_wrong_is_named() {
    let folder = Folder::new("errors");
    let (input, output) = (folder.file("in.safetensors"), folder.file("out.safetensors"));
    let (from, to) = (input.to_str().expect("a path"), output.to_str().expect("a path"));
    let refused = |tensors: &[Named<'_>], arguments: &[&str], reason: &str| {
        save(&input, tensors);
        let ran = gatewarp(&[&[from, to, "--device", "cpu"], arguments].concat());
        let said = String::from_utf8_lossy(&ran.stderr);
        assert_eq!(ran.status.code(), Some(2), "{reason}: {said}");
        assert!(said.contains(reason), "expected `{reason}` in: {said}");
        assert!(!output.exists(), "{reason}: an output was written");
    };
    let all = inputs(6, 4);
    refused(&all[..2], &[], "`v`");
    refused(&all, &["--window", "-1,0"], "window");
    refused(&all, &["--window", "5"], "window");
    refused(&all, &["--softcap", "0"], "softcap");
    refused(&all, &["--score", "additive"], "`w`");
    let mut ill = all.clone();
    ill[1].2 = vec![1, 1, 4, 6];
    refused(&ill, &[], "`k`");
    let mut ill = all.clone();
    ill[3].2 = vec![1, 1, 4, 6];
    refused(&ill, &[], "`do`");
    let mut odd = all.clone();
    odd.push(("bias", Dtype::F32, vec![1, 1, 5, 6], floats(&wave(30, 1.0))));
    refused(&odd, &[], "`bias`");
    std::fs::write(&input, b"no tensors").expect("a file");
    let ran = gatewarp(&[from, to]);
    assert_eq!(ran.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&ran.stderr).contains("in.safetensors"));
}
