//! Tasks over key-value pairs: `k₁ v₁ … k₈ v₈ q`. Keys are distinct; values and the order of keys are arbitrary; a sequence says
//! nothing of its task.

use super::data::{Codec, Data, Info, PAD, Sample};
use anyhow::{Result, bail};
use rand::distr::{Distribution, weighted::WeightedIndex};
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use serde::{Deserialize, Serialize};

/// Key-value pairs in a sequence.
const PAIRS: usize = 8;
const KEYS: u32 = 16;
const VALUES: u32 = 10;

/// The tasks a model is trained on.
pub const TASKS: [&str; 5] = ["recall", "max", "first", "value-of-max-key", "min"];
/// Tasks that can be added to a trained model.
pub const MORE: [&str; 2] = ["last", "value-of-min-key"];

/// How many sequences, and of what.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Synthetic {
    pub train: usize,
    pub held_out: usize,
    pub seed: u64,
    /// Each task has this many times fewer training sequences than the one before; 1 gives tasks of one size.
    pub skew: u32,
}

impl Synthetic {
    /// A mix of all tasks; the held-out set has all of them equally.
    ///
    /// # Errors
    /// A skew of 0.
    pub fn data(&self) -> Result<Data> {
        let mut random = StdRng::seed_from_u64(self.seed);
        let shares: Vec<f64> = (0..TASKS.len() as i32).map(|t| f64::from(self.skew).powi(-t)).collect();
        let shares = WeightedIndex::new(&shares)?;
        let train = (0..self.train).map(|_| {
            let task = shares.sample(&mut random);
            sequence(&mut random, TASKS[task], task)
        });
        let train = train.collect();
        let held_out = (0..self.held_out).map(|_| {
            let task = random.random_range(0..TASKS.len());
            sequence(&mut random, TASKS[task], task)
        });
        Ok(Data { train, held_out: held_out.collect(), codec: codec(&TASKS) })
    }

    /// Sequences of the task `name` alone, which gets the number `task`; as many as a task has in [`data`](Self::data).
    ///
    /// # Errors
    /// A name that is not one of [`MORE`].
    pub fn one_task(&self, name: &str, task: usize) -> Result<(Vec<Sample>, Vec<Sample>)> {
        if !MORE.contains(&name) {
            bail!(
                "`{name}` is no task that can be added: {}; other tasks come from --data FILE.jsonl",
                MORE.join(", ")
            );
        }
        let mut random = StdRng::seed_from_u64(self.seed ^ 0xadd);
        let mut draw = |count: usize| (0..count).map(|_| sequence(&mut random, name, task)).collect();
        Ok((draw(self.train.div_ceil(TASKS.len())), draw(self.held_out.div_ceil(TASKS.len()))))
    }
}

/// Names and sizes, with these tasks.
pub fn codec(tasks: &[&str]) -> Codec {
    Codec::new(Info {
        tasks: tasks.iter().copied().map(String::from).collect(),
        tokens: (0..KEYS + VALUES).collect(),
        classes: VALUES as usize,
        longest: 2 * PAIRS + 1,
    })
}

/// What a token of these sequences is called.
pub fn token_name(token: u32) -> String {
    if token < KEYS { format!("k{token}") } else { (token - KEYS).to_string() }
}

fn sequence(random: &mut StdRng, name: &str, task: usize) -> Sample {
    let mut keys: Vec<u32> = (0..KEYS).collect();
    keys.shuffle(random);
    keys.truncate(PAIRS);
    let values: [u32; PAIRS] = std::array::from_fn(|_| random.random_range(0..VALUES));
    let query = random.random_range(0..PAIRS);
    let largest = (0..PAIRS).max_by_key(|&i| keys[i]).unwrap_or(0);
    let smallest = (0..PAIRS).min_by_key(|&i| keys[i]).unwrap_or(0);
    let label = match name {
        "recall" => values[query],
        "max" => values.into_iter().max().unwrap_or(0),
        "min" => values.into_iter().min().unwrap_or(0),
        "first" => values[0],
        "last" => values[PAIRS - 1],
        "value-of-max-key" => values[largest],
        _ => values[smallest],
    };
    let pair = match name {
        "recall" => Some(query),
        "first" => Some(0),
        "last" => Some(PAIRS - 1),
        "value-of-max-key" => Some(largest),
        "value-of-min-key" => Some(smallest),
        // Any of the equal values.
        _ => None,
    };
    let evidence = (0..PAIRS).filter(|&i| pair.map_or(values[i] == label, |pair| i == pair));
    let evidence = evidence.map(|i| 2 * i + 1).collect();
    let id = |token: u32| PAD + 1 + token;
    let mut tokens: Vec<u32> =
        keys.iter().zip(values).flat_map(|(&key, value)| [id(key), id(KEYS + value)]).collect();
    tokens.push(id(keys[query]));
    Sample { tokens, task: task as u32, label, evidence }
}
