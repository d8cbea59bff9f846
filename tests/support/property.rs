//! Running a property over seeded random cases.

use super::devices::TestDevice;
use gatewarp::Device;
use proptest::strategy::Strategy;
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestError, TestRng, TestRunner};
use std::cell::Cell;
use std::fmt::Debug;

/// Changes the cases of every property: a number.
const SEED_VARIABLE: &str = "GATEWARP_TEST_SEED";
/// Runs more (or fewer) cases a property: a number.
const CASES_VARIABLE: &str = "GATEWARP_TEST_CASES";
/// Cases of a property where nothing else is asked for.
pub const CASES: u32 = 256;

fn variable(name: &str, default: u64) -> Result<u64, String> {
    match std::env::var(name) {
        Ok(text) => text.trim().parse().map_err(|_| format!("{name}={text} is not a number")),
        Err(_) => Ok(default),
    }
}

/// Checks `property` on `cases` random values of `strategy`, spread over the device's handles. The cases follow from the
/// property's name and `GATEWARP_TEST_SEED` alone.
///
/// # Errors
/// The smallest failing case found, with the seed that reproduces it.
pub fn check<S>(
    name: &str,
    device: &TestDevice,
    cases: u32,
    strategy: &S,
    property: impl Fn(&Device, &S::Value) -> Result<(), String>,
) -> Result<(), String>
where
    S: Strategy,
    S::Value: Debug,
{
    let seed = variable(SEED_VARIABLE, 0)?;
    // `CASES_VARIABLE` counts full properties; cheaper ones keep their share.
    let cases = u32::try_from(variable(CASES_VARIABLE, CASES.into())? * u64::from(cases) / u64::from(CASES))
        .unwrap_or(u32::MAX);
    let config = Config {
        cases: cases.max(1),
        failure_persistence: None,
        // Shrinking reruns the property; on an emulated device a few dozen reruns are what one can wait for.
        max_shrink_iters: 48,
        ..Config::default()
    };
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &seed_bytes(name, seed));
    let ran = Cell::new(0);
    let outcome = TestRunner::new_with_rng(config, rng).run(strategy, |case| {
        let number = ran.replace(ran.get() + 1);
        property(device.handle(number), &case).map_err(TestCaseError::fail)
    });
    match outcome {
        Ok(()) => Ok(()),
        Err(TestError::Abort(reason)) => Err(format!("{name}: gave up: {reason}")),
        Err(TestError::Fail(reason, case)) => Err(format!(
            "{reason}\n  case: {case:#?}\n  reproduce with {SEED_VARIABLE}={seed}, filter `{name}`"
        )),
    }
}

/// FNV-1a of the name, mixed with the seed: properties see different cases, each always the same ones.
fn seed_bytes(name: &str, seed: u64) -> [u8; 32] {
    let mut hash = 0xcbf2_9ce4_8422_2325u64;
    for byte in name.bytes() {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&hash.to_le_bytes());
    bytes[8..16].copy_from_slice(&seed.to_le_bytes());
    bytes
}
