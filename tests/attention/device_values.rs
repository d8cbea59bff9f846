//! Values that only the device can see.

use crate::launch::{Integers, Launch};
use crate::support::attention_case::{Case, Offset, Stream, non_empty_case};
use crate::support::compare::same_bits;
use crate::support::devices::TestDevice;
use crate::support::property::{CASES, check};
use crate::support::random::Random;
use gatewarp::attention::WantGradients;
use gatewarp::{Backend, DType, Device, Error};
use proptest::strategy::Strategy;

/// Lengths on `device` with sample `bad` out of range, in a random integer type.
fn spoiled(device: &Device, lengths: &[usize], bad: usize, slots: usize, random: &mut Random) -> Integers {
    let slots = slots as i64;
    // The low word of the last two i64 is a legal length.
    let (dtype, choices) = match random.below(3) {
        0 => (DType::I64, vec![-1, slots + 1, i64::MIN, 1 << 32, -(1 << 32)]),
        1 => (DType::U32, vec![slots + 1, u32::MAX.into(), 1 << 31]),
        _ => (DType::I32, vec![-1, slots + 1, i32::MIN.into(), i32::MAX.into()]),
    };
    let value = choices[random.below(choices.len())];
    let with: Vec<i64> =
        lengths.iter().enumerate().map(|(b, &n)| if b == bad { value } else { n as i64 }).collect();
    Integers::new(device, &with, dtype, random)
}

/// Whether sample `bad` is NaN throughout and the others have the bits of `want`.
fn only_one_spoiled(name: &str, got: &[f32], want: &[f32], batch: usize, bad: usize) -> Result<(), String> {
    let size = want.len() / batch;
    let (spoiled, kept) = (bad * size..(bad + 1) * size, |b: &usize| *b != bad);
    if let Some(at) = got[spoiled.clone()].iter().position(|x| !x.is_nan()) {
        return Err(format!(
            "{name}[{}] of the bad sample is {:e}, not NaN",
            spoiled.start + at,
            got[spoiled.start + at]
        ));
    }
    (0..batch).filter(kept).try_for_each(|b| {
        same_bits(&format!("{name} of sample {b}"), &got[b * size..][..size], &want[b * size..][..size])
    })
}

fn reported(device: &Device) -> Result<(), String> {
    match device.synchronize() {
        Err(Error::DeviceValue { .. }) => {
            device.synchronize().map_err(|error| format!("reported twice: {error}"))
        }
        other => Err(format!("a bad length was reported as {other:?}")),
    }
}

pub fn a_bad_length_spoils_its_sample_alone(device: &TestDevice) -> Result<(), String> {
    let strategy = non_empty_case().prop_map(|mut case| {
        case.own_lengths = true;
        // The bottom-right offset of a sample without a length is not defined; the sample is NaN either way.
        if case.offset == Offset::PerSample {
            case.offset = Offset::BottomRight;
        }
        case
    });
    check("a_bad_length_spoils_its_sample_alone", device, CASES, &strategy, |handle, case| {
        if handle.backend() == Backend::Cpu { refused(handle, case) } else { spoils_one(handle, case) }
    })
}

/// The host sees the lengths: the call is refused and nothing is written.
fn refused(device: &Device, case: &Case) -> Result<(), String> {
    let data = case.data();
    let mut random = case.random(Stream::Places);
    let bad = random.below(case.batch);
    let mut launch = Launch::new(device, &data, case.seed);
    launch.set_lengths(spoiled(device, &data.problem.kv_len, bad, case.kv_slots, &mut random));
    let (mut o, mut lse) = launch.outputs();
    match launch.launch_forward(&mut o, &mut lse) {
        Err(Error::InvalidArgument { arg: "kv_len", .. }) => {}
        other => return Err(format!("a bad length gave {other:?}")),
    }
    o.read_where("o", |_| false)?;
    lse.read_where("lse", |_| false)?;
    Ok(())
}

fn spoils_one(device: &Device, case: &Case) -> Result<(), String> {
    let data = case.data();
    let mut random = case.random(Stream::Places);
    let bad = random.below(case.batch);
    let good = Launch::new(device, &data, case.seed);
    let (want, want_gradients) = good.both()?;
    let mut launch = Launch::new(device, &data, case.seed);
    launch.set_lengths(spoiled(device, &data.problem.kv_len, bad, case.kv_slots, &mut random));

    let (mut o, mut lse) = launch.outputs();
    launch.launch_forward(&mut o, &mut lse).map_err(|error| error.to_string())?;
    reported(device)?;
    let run = launch.read_forward(o, lse)?;
    only_one_spoiled("o", &run.o, &want.o, case.batch, bad)?;
    only_one_spoiled("lse", &run.lse, &want.lse, case.batch, bad)?;

    let outputs =
        launch.launch_backward(&want, WantGradients::default()).map_err(|error| error.to_string())?;
    reported(device)?;
    let run = launch.read_backward(&outputs)?;
    let pairs = [
        ("dq", &run.dq, &want_gradients.dq),
        ("dk", &run.dk, &want_gradients.dk),
        ("dv", &run.dv, &want_gradients.dv),
    ];
    for (name, got, want) in pairs {
        let (got, want) = (got.as_ref().ok_or("asked for")?, want.as_ref().ok_or("asked for")?);
        only_one_spoiled(name, got, want, case.batch, bad)?;
    }
    // And the device is as good as before.
    let again = good.forward()?;
    same_bits("o after a bad length", &again.o, &want.o)
}
