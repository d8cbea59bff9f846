//! Sizes and repetitions: FlashAttention's odd lengths, empty sequences, the same bits a thousand times, memory, and what is refused.

use crate::agreement::agree;
use crate::case::{Case, Data, any_case, option};
use crate::launch::{ForwardRun, GradientRun, Launch};
use crate::limits::lacking;
use crate::support::devices::TestDevice;
use crate::support::oracle_attention::{SCORES, Score};
use crate::support::property::{CASES, check};
use gatewarp::attention::{
    AttentionOptions, AttentionRow, attention_backward_workspace, attention_forward_workspace,
};
use gatewarp::{Backend, DType, Device, Error, Tensor};
use rayon::ThreadPoolBuilder;

/// One head of one sample, of dot products.
fn plain(q_len: usize, kv_len: usize, dim: usize, options: u32, seed: u64) -> Case {
    Case {
        batch: 1,
        kv_heads: 1,
        group: 1,
        q_len,
        kv_len,
        head_dim: dim,
        value_dim: dim,
        score: Score::Dot,
        options,
        seed,
    }
}

/// The long ones of FlashAttention's grid, which `odd_lengths_and_large_dims` has on the CPU only or not at all.
pub fn long_odd_lengths(device: &TestDevice) -> Result<(), String> {
    let mut sizes = vec![(799, 3, 8), (1023, 1024, 4)];
    if device.backend() == Backend::Cpu {
        sizes.push((4224, 4224, 8));
    }
    for (number, (q_len, kv_len, dim)) in sizes.into_iter().enumerate() {
        let case = plain(q_len, kv_len, dim, option::CAUSAL, 3 + number as u64);
        agree(device.handle(number), &case, &case.data(DType::F32), DType::F32, false)
            .map_err(|error| format!("{case:?}: {error}"))?;
    }
    Ok(())
}

/// A packed batch of forty sequences, of which at least a tenth have no query and a tenth no key.
pub fn packed_batches_with_empty_sequences(device: &TestDevice) -> Result<(), String> {
    for seed in 0..3 {
        let case = Case {
            batch: 40,
            group: 2,
            options: option::PACKED | if seed == 1 { option::CAUSAL } else { 0 },
            ..plain(23, 37, 7, 0, seed)
        };
        let mut data = case.data(DType::F32);
        let p = &mut data.problem;
        for b in (0..40).step_by(10) {
            p.q_len[b] = 0;
            p.kv_len[b + 3] = 0;
        }
        for b in 0..40 {
            p.offset[b] = p.kv_len[b] as i64 - p.q_len[b] as i64;
        }
        let empty = |lengths: &[usize]| lengths.iter().filter(|&&n| n == 0).count();
        assert!(empty(&p.q_len) >= 4 && empty(&p.kv_len) >= 4, "a tenth is empty");
        // Rows that do not exist are read by nobody, and 0 in the oracle's answer.
        agree(device.handle(seed as usize), &case, &data, DType::F32, true)
            .map_err(|error| format!("{case:?}: {error}"))?;
    }
    Ok(())
}

type Both = (ForwardRun, GradientRun);

fn run(device: &Device, dtype: DType, case: &Case, data: &Data) -> Result<Both, String> {
    let launch = Launch::new(device, dtype, case, data);
    let forward = launch.forward()?;
    let gradients = launch.backward(&forward)?;
    Ok((forward, gradients))
}

/// All outputs, bit by bit.
fn same(what: &str, got: &Both, want: &Both) -> Result<(), String> {
    let parts = |run: &Both| -> [(&'static str, Vec<u64>); 10] {
        let bits = |values: &[f64]| values.iter().map(|x| x.to_bits()).collect::<Vec<u64>>();
        let (forward, g) = run;
        [
            ("o", bits(&forward.o)),
            ("lse", bits(&forward.lse)),
            ("dq", bits(&g.dq)),
            ("dk", bits(&g.dk)),
            ("dv", bits(&g.dv)),
            ("dbias", bits(&g.dbias)),
            ("dsinks", bits(&g.dsinks)),
            ("dalibi", bits(&g.dalibi)),
            ("dw", bits(&g.dw)),
            ("dscale", bits(&g.dscale)),
        ]
    };
    for ((name, got), (_, want)) in parts(got).into_iter().zip(parts(want)) {
        if let Some(at) = (0..got.len().max(want.len())).find(|&at| got.get(at) != want.get(at)) {
            return Err(format!("{name}[{at}] {what}: {:x?}, was {:x?}", got.get(at), want.get(at)));
        }
    }
    Ok(())
}

/// Every score and option twice: on the CPU with other numbers of threads, on a GPU again, or under another schedule.
pub fn any_options_give_the_same_bits_again(device: &TestDevice) -> Result<(), String> {
    let pools = [1, 2, 3, 7].map(|n| ThreadPoolBuilder::new().num_threads(n).build());
    let name = "any_options_give_the_same_bits_again";
    check(name, device, CASES / 2, &any_case(), |handle, case| {
        let dtype = if case.seed.is_multiple_of(3) { DType::BF16 } else { DType::F32 };
        let data = case.data(dtype);
        let first = run(handle, dtype, case, &data)?;
        let turn = case.seed as usize % 4;
        if device.backend() != Backend::Cpu {
            let other = device.handle(turn);
            return same("again", &run(other, dtype, case, &data)?, &first);
        }
        let pool = pools[turn].as_ref().map_err(ToString::to_string)?;
        let again = pool.install(|| run(handle, dtype, case, &data))?;
        same(&format!("with {} threads", pool.current_num_threads()), &again, &first)
    })
}

/// A thousand times on the CPU, whose threads race; a few times on a GPU.
pub fn a_thousand_repeats_have_the_same_bits(device: &TestDevice) -> Result<(), String> {
    let options = option::CAUSAL | option::BIAS | option::SINKS | option::ALIBI | option::DROPOUT;
    let case = Case { batch: 2, kv_heads: 2, group: 2, ..plain(33, 70, 9, options, 1) };
    let data = case.data(DType::F32);
    let repeats = if device.backend() == Backend::Cpu { 1000 } else { 10 };
    let first = run(device.handle(0), DType::F32, &case, &data)?;
    (1..repeats).try_for_each(|number| {
        same(&format!("at repeat {number}"), &run(device.handle(number), DType::F32, &case, &data)?, &first)
    })
}

/// At 32,768 queries and keys a call needs at most twice the bytes of q and 32 MiB beside its tensors.
pub fn memory_at_32768_is_linear(device: &TestDevice) -> Result<(), String> {
    let handle = device.handle(0);
    let (len, dim) = (32_768, 64);
    let say = |error: Error| error.to_string();
    for dtype in [DType::F32, DType::F16] {
        let x = Tensor::zeros(handle, dtype, &[1, 1, len, dim]).map_err(say)?;
        let w = Tensor::zeros(handle, DType::F32, &[dim]).map_err(say)?;
        let scores = [
            gatewarp::attention::Score::Dot,
            gatewarp::attention::Score::Fidelity,
            gatewarp::attention::Score::Additive { w: w.view() },
        ];
        for score in scores {
            let options = AttentionOptions { score, causal: true, ..Default::default() };
            // Self-attention, and a few queries over a long cache, which is split.
            for queries in [len, 16, 1] {
                let q = x.view().narrow(2, 0, queries).map_err(say)?;
                let most = 2 * x.view().layout().len() * dtype.size() + (32 << 20);
                let forward = attention_forward_workspace(&q, &x.view(), &x.view(), &options).map_err(say)?;
                let backward =
                    attention_backward_workspace(&q, &x.view(), &x.view(), &options).map_err(say)?;
                if forward.max(backward) > most {
                    let bytes = format!("{forward} and {backward} bytes, more than {most}");
                    return Err(format!("{dtype}, {queries} queries, {:?}: {bytes}", options.score));
                }
            }
        }
    }
    Ok(())
}

/// Backend × element type × score × mask: what SPEC does not limit is not refused, forward, backward and looking inside.
pub fn only_the_spec_refuses(device: &TestDevice) -> Result<(), String> {
    let masks = [
        ("none", 0),
        ("causal", option::CAUSAL),
        ("window", option::WINDOW),
        ("lengths", option::LENGTHS),
        ("offsets", option::OFFSET | option::CAUSAL),
        ("mask", option::MASK),
        ("bias", option::BIAS),
        ("alibi", option::ALIBI),
        ("sinks", option::SINKS),
        ("packed", option::PACKED),
        ("all", option::ALL & !option::PACKED),
        ("all, packed", option::ALL & !option::LENGTHS),
    ];
    for dtype in [DType::F32, DType::F16, DType::BF16, DType::F64] {
        for (number, score) in SCORES.into_iter().enumerate() {
            for (name, options) in masks {
                let case = Case { score, batch: 2, group: 2, ..plain(5, 9, 6, options, 7) };
                let data = case.data(if dtype == DType::F64 { dtype } else { DType::F32 });
                let tried = || -> Result<(), String> {
                    if !lacking(device.backend(), dtype) {
                        let handle = device.handle(number);
                        let launch = Launch::new(handle, dtype, &case, &data);
                        let saved = launch.forward()?;
                        launch.backward(&saved)?;
                        return launch
                            .look(&saved, &[AttentionRow { sample: 1, head: 1, query: 2 }])
                            .map(drop);
                    }
                    // A tensor of the type there may be; attention of it is refused, with the type and the types there are.
                    let x =
                        Tensor::zeros(device.handle(0), dtype, &[1, 1, 2, 2]).map_err(|e| e.to_string())?;
                    let x = x.view();
                    match gatewarp::attention::attention_forward(&x, &x, &x, &AttentionOptions::default()) {
                        Err(Error::Unsupported { what: "element type", .. }) => Ok(()),
                        other => Err(format!("is on the list of limits, and gave {other:?}")),
                    }
                };
                tried().map_err(|error| format!("{dtype}, {score:?}, {name}: {error}"))?;
            }
        }
    }
    Ok(())
}
