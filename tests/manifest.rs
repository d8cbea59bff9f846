//! Every shader and kernel is what its manifest row says: entry, block, bindings or arguments, shared bytes.

use gatewarp::manifest::{self, Access, CudaKernel, WGSL_ENTRY_POINT, WgslKernel};
use naga::valid::{Capabilities, ValidationFlags, Validator};
use naga::{AddressSpace, Module, StorageAccess};
use std::collections::BTreeSet;

/// Parses and validates a row's complete text.
fn reflect(kernel: &WgslKernel) -> Result<Module, String> {
    let text = kernel.text();
    let module = naga::front::wgsl::parse_str(&text).map_err(|error| error.emit_to_string(&text))?;
    let capabilities = if kernel.uses_subgroups { Capabilities::SUBGROUP } else { Capabilities::empty() };
    let mut validator = Validator::new(ValidationFlags::all(), capabilities);
    validator.validate(&module).map_err(|error| error.emit_to_string(&text))?;
    Ok(module)
}

/// Every way the text differs from the row.
fn differences(kernel: &WgslKernel, module: &Module) -> Vec<String> {
    let mut found = Vec::new();
    let mut expect = |what: String, text: String, row: String| {
        if text != row {
            found.push(format!("{}: {what} is {text}, the row says {row}", kernel.entry));
        }
    };
    let entries: Vec<&str> = module.entry_points.iter().map(|entry| entry.name.as_str()).collect();
    expect("list of entry points".into(), format!("{entries:?}"), format!("{:?}", [WGSL_ENTRY_POINT]));
    for entry in &module.entry_points {
        expect(
            "workgroup size".into(),
            format!("{:?}", entry.workgroup_size),
            format!("{:?}", kernel.workgroup),
        );
    }

    let context = module.to_ctx();
    let size = |ty: naga::Handle<naga::Type>| module.types[ty].inner.size(context);
    let mut bindings: Vec<(u32, String)> = Vec::new();
    let mut workgroup_bytes = 0;
    for (_, variable) in module.global_variables.iter() {
        let name = variable.name.clone().unwrap_or_default();
        let binding = variable
            .binding
            .map_or(u32::MAX, |binding| if binding.group == 0 { binding.binding } else { u32::MAX });
        match variable.space {
            AddressSpace::Storage { access } => {
                let written = access.contains(StorageAccess::STORE);
                let access = if written { Access::ReadWrite } else { Access::Read };
                bindings.push((binding, format!("{name}: {access:?}")));
            }
            AddressSpace::Uniform => {
                bindings.push((binding, format!("uniform of {} bytes", size(variable.ty))))
            }
            AddressSpace::WorkGroup => workgroup_bytes += size(variable.ty),
            AddressSpace::Private | AddressSpace::Function => {}
            other => bindings.push((binding, format!("{name}: {other:?}"))),
        }
    }
    bindings.sort();
    let mut rows: Vec<(u32, String)> =
        (0..).zip(kernel.bindings).map(|(at, (name, access))| (at, format!("{name}: {access:?}"))).collect();
    if kernel.params > 0 {
        rows.push((kernel.bindings.len() as u32, format!("uniform of {} bytes", kernel.params)));
    }
    expect("list of bindings".into(), format!("{bindings:?}"), format!("{rows:?}"));
    expect("workgroup memory".into(), workgroup_bytes.to_string(), kernel.workgroup_bytes.to_string());
    found
}

/// WGSL without comments, so that a word in a header does not count as code.
fn code(text: &str) -> String {
    text.lines().map(|line| line.split("//").next().unwrap_or("")).collect::<Vec<_>>().join("\n")
}

#[test]
fn every_shader_is_what_its_row_says() {
    let mut problems = Vec::new();
    let mut count = 0;
    for kernel in manifest::wgsl() {
        count += 1;
        match reflect(kernel) {
            Ok(module) => problems.extend(differences(kernel, &module)),
            Err(error) => problems.push(format!("{}: {error}", kernel.entry)),
        }
        if code(&kernel.text()).contains("subgroup") != kernel.uses_subgroups {
            problems.push(format!("{}: uses_subgroups is {}", kernel.entry, kernel.uses_subgroups));
        }
    }
    assert!(count > 0, "the manifest has no shaders");
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

#[test]
fn names_are_unique_and_files_are_where_rows_say() {
    let mut seen = BTreeSet::new();
    for entry in manifest::wgsl().map(|kernel| kernel.entry) {
        assert!(seen.insert(entry), "two shader rows are called {entry}");
    }
    let mut seen = BTreeSet::new();
    for entry in manifest::cuda().map(|kernel| kernel.entry) {
        assert!(seen.insert(entry), "two kernel rows are called {entry}");
    }
    let rows =
        manifest::wgsl().map(|k| (k.file, k.source)).chain(manifest::cuda().map(|k| (k.file, k.source)));
    for (file, source) in rows {
        let path = format!("{}/kernels/{file}", env!("CARGO_MANIFEST_DIR"));
        let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
        assert!(source == text || source.contains(&text), "{file} is not the text of its row");
    }
}

#[test]
fn every_kernel_file_has_a_row() {
    let files: BTreeSet<&str> =
        manifest::wgsl().map(|k| k.file).chain(manifest::cuda().map(|k| k.file)).collect();
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels");
    for folder in std::fs::read_dir(&root).unwrap().map(Result::unwrap).filter(|entry| entry.path().is_dir())
    {
        for entry in std::fs::read_dir(folder.path()).unwrap().map(Result::unwrap) {
            let path = entry.path();
            let text = std::fs::read_to_string(&path).unwrap();
            let name = path.strip_prefix(&root).unwrap().to_string_lossy().replace('\\', "/");
            // A file without an entry is a part that others include; a header may hold a macro that makes them.
            let is_header = name.ends_with(".cuh");
            let is_kernel = !is_header && text.contains("GW_EXPORT(") || text.contains("@compute");
            assert!(!is_kernel || files.contains(name.as_str()), "{name} has no row in the manifest");
        }
    }
}

/// A kernel's file and the headers it includes from this folder, without comments and line continuations.
fn cuda_text(file: &str) -> String {
    let read = |file: &str| {
        let path = format!("{}/kernels/{file}", env!("CARGO_MANIFEST_DIR"));
        code(&std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}")))
    };
    let text = read(file);
    let included = text.lines().filter_map(|line| line.strip_prefix("#include \"")?.strip_suffix('"'));
    let headers: String = included.filter(|name| name.contains('/')).map(read).collect();
    (headers + &text).replace("\\\n", "\n")
}

/// The value of a constant expression of the kind block sizes are written in: a product of numbers and `constexpr` names.
fn constant(text: &str, expression: &str) -> Option<u32> {
    expression.split('*').try_fold(1, |product, factor| {
        let name = factor.rsplit("::").next()?.trim();
        let value = match name.parse() {
            Ok(number) => number,
            Err(_) => {
                let definition = text.split("constexpr ").find_map(|rest| {
                    let (declared, value) = rest.split_once(';')?.0.split_once('=')?;
                    (declared.split_whitespace().last() == Some(name)).then_some(value)
                })?;
                constant(text, definition)?
            }
        };
        Some(product * value)
    })
}

/// Whether `entry` is a name written as `pattern`, in which `##D` stands for a macro's argument.
fn is_written_as(entry: &str, pattern: &str) -> bool {
    let mut parts = pattern.split("##");
    let Some(mut rest) = parts.next().and_then(|first| entry.strip_prefix(first)) else { return false };
    for part in parts {
        let is_argument = part.chars().all(|c| c.is_ascii_uppercase());
        let length = if is_argument {
            rest.chars().take_while(char::is_ascii_alphanumeric).count()
        } else {
            part.len()
        };
        if length == 0 || !(is_argument || rest.starts_with(part)) {
            return false;
        }
        rest = &rest[length..];
    }
    rest.is_empty()
}

/// What a `.cu` file says of an entry: threads a block and parameter names.
fn signature(kernel: &CudaKernel) -> Option<(u32, Vec<String>)> {
    let text = cuda_text(kernel.file);
    text.split("GW_KERNEL(").skip(1).find_map(|rest| {
        let (head, rest) = rest.split_once(')')?;
        let (name, rest) = rest.split_once('(')?;
        if !is_written_as(kernel.entry, name.trim()) {
            return None;
        }
        let words = |parameter: &str| -> Option<String> {
            let mut words = parameter.split(|c: char| !c.is_alphanumeric() && c != '_');
            words.rfind(|word| !word.is_empty()).map(str::to_owned)
        };
        let (parameters, _) = rest.split_once(')')?;
        Some((constant(&text, head.split(',').next()?)?, parameters.split(',').filter_map(words).collect()))
    })
}

#[test]
fn every_kernel_text_is_what_its_row_says() {
    for kernel in manifest::cuda() {
        let Some((block, mut names)) = signature(kernel) else {
            panic!("{}: no `GW_KERNEL(block, …) {}(…)` in {}", kernel.entry, kernel.entry, kernel.file);
        };
        assert_eq!(block, kernel.block, "threads a block of {}", kernel.entry);
        if kernel.params > 0 {
            names.pop();
        }
        assert_eq!(names, kernel.pointers, "pointer arguments of {}", kernel.entry);
        assert!(
            kernel.block % 32 == 0 && kernel.block <= 1024,
            "{} has blocks of {}",
            kernel.entry,
            kernel.block
        );
        assert!(
            kernel.shared_bytes <= 227 << 10,
            "{} wants {} shared bytes",
            kernel.entry,
            kernel.shared_bytes
        );
    }
}

#[cfg(feature = "emulator")]
#[test]
fn the_emulator_has_every_kernel_with_the_arguments_of_its_row() {
    let compiled = gatewarp_emulator::kernels();
    // The emulator's own test kernels lie elsewhere.
    let compiled: Vec<_> = compiled.iter().filter(|kernel| kernel.source.starts_with("kernels/")).collect();
    let entries: BTreeSet<&str> = compiled.iter().map(|kernel| kernel.entry).collect();
    let rows: BTreeSet<&str> = manifest::cuda().map(|kernel| kernel.entry).collect();
    assert_eq!(entries, rows, "compiled kernels and manifest rows");
    assert!(!rows.is_empty(), "the manifest has no kernels");
    for kernel in compiled {
        let Some(row) = manifest::cuda().find(|row| row.entry == kernel.entry) else { continue };
        let mut arguments = vec![8; row.pointers.len()];
        arguments.extend((row.params > 0).then_some(row.params));
        assert_eq!(kernel.argument_sizes, arguments, "argument sizes of {}", kernel.entry);
        assert_eq!(kernel.source, format!("kernels/{}", row.file), "file of {}", kernel.entry);
    }
}

#[test]
fn kernel_texts_are_read_as_the_compiler_reads_them() {
    assert!(
        is_written_as("f_d32", "f_d##D")
            && is_written_as("f_d32", "f_d32")
            && is_written_as("f_2_x", "f_##D##_x")
    );
    assert!(
        !is_written_as("f_d", "f_d##D")
            && !is_written_as("f_d32", "f_d")
            && !is_written_as("g_d32", "f_d##D")
    );
    let text = "constexpr int X = 8; constexpr int THREADS = X * 16;";
    assert_eq!(constant(text, " a::THREADS"), Some(128));
    assert_eq!(constant(text, "64"), Some(64));
    assert_eq!(constant(text, "Y"), None);
}

/// The checks themselves see a difference in every field.
#[test]
fn a_wrong_row_is_seen() {
    const SOURCE: &str = "struct Params { n: u32, m: u32 }
        @group(0) @binding(0) var<storage, read> x: array<f32>;
        @group(0) @binding(1) var<storage, read_write> y: array<f32>;
        @group(0) @binding(2) var<uniform> params: Params;
        var<workgroup> tile: array<vec4<f32>, 32>;
        @compute @workgroup_size(64) fn main(@builtin(local_invocation_index) i: u32) {
            tile[i % 32u] = vec4(x[i % params.n]); workgroupBarrier(); y[i] = tile[0].x;
        }";
    let right = || WgslKernel {
        entry: "example",
        file: "example.wgsl",
        source: SOURCE,
        constants: &[],
        workgroup: [64, 1, 1],
        bindings: &[("x", Access::Read), ("y", Access::ReadWrite)],
        params: 8,
        workgroup_bytes: 512,
        uses_subgroups: false,
    };
    let module = reflect(&right()).unwrap();
    assert_eq!(differences(&right(), &module), [""; 0]);
    let wrong = [
        WgslKernel { workgroup: [32, 1, 1], ..right() },
        WgslKernel { bindings: &[("x", Access::ReadWrite), ("y", Access::ReadWrite)], ..right() },
        WgslKernel { bindings: &[("y", Access::Read), ("x", Access::ReadWrite)], ..right() },
        WgslKernel { bindings: &[("x", Access::Read)], ..right() },
        WgslKernel { params: 12, ..right() },
        WgslKernel { workgroup_bytes: 516, ..right() },
    ];
    for row in wrong {
        assert!(!differences(&row, &module).is_empty(), "{row:?}");
    }
}
