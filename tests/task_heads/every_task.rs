//! Every sample asked every task: what separate calls give, with one attention.

use crate::case::{GateCase, GateData, GateStream, gated, has_no_gradient, noisy};
use crate::launch::{Launch, Run};
use crate::oracle_agreement::{check_lists, differentiable, loss};
use crate::support::attention_case::{non_empty_case, widen};
use crate::support::compare::{close, same_bits};
use crate::support::devices::TestDevice;
use crate::support::guarded::{Guarded, Inner, Strided, random_layout};
use crate::support::oracle::central_difference;
use crate::support::property::{CASES, check};
use crate::support::random::Random;
use crate::support::tolerance::{CENTRAL_DIFFERENCE, CENTRAL_DIFFERENCE_STEP};
use crate::want;
use gatewarp::random::Stream;
use gatewarp::task_heads::{
    EveryTaskGate, EveryTaskOptions, EveryTaskSaved, EveryTaskViews, TaskHeadsGradients,
    WantTaskHeadsGradients, every_task_statistics, gate_statistics, task_heads_backward_every_task,
    task_heads_forward_every_task, task_heads_forward_every_task_into,
};
use gatewarp::{Device, Layout, Tensor};

/// A problem, as a mixed batch of each task sees it.
pub struct Asked {
    pub case: GateCase,
    pub per_task: Vec<GateData>,
}

/// The same problem on a device, for all tasks at once.
pub struct EveryLaunch {
    pub launch: Launch,
    case: GateCase,
    tasks: usize,
    values: Strided,
    x: Option<Strided>,
    bias: Option<Strided>,
    pub grad_y: Strided,
}

/// What a forward pass over every task gives.
pub struct EveryRun {
    pub y: Vec<f32>,
    pub o: Vec<f32>,
    pub lse: Vec<f32>,
    pub gates: Vec<f32>,
    pub probabilities: Vec<f32>,
    pub used: Vec<f32>,
    pub z: Option<Vec<f32>>,
    pub lists: [Vec<u32>; 4],
    memory: Memory,
}

struct Memory {
    y: Guarded,
    o: Guarded,
    lse: Guarded,
    gates: Guarded,
    probabilities: Guarded,
    used: Guarded,
    z: Option<Guarded>,
    lists: [Tensor; 4],
}

/// Gradients, in the order dq, dk, dv, dgate, dx, dweights, dbias; empty where there is none.
pub type EveryGradients = [Vec<f32>; 7];

impl Asked {
    pub fn new(case: &GateCase) -> Self {
        let tasks = case.tasks.unwrap_or(1 + (case.attention.seed % 4) as usize);
        let batch = case.attention.batch;
        let one = |task: usize| {
            let ids = if case.tasks.is_some() { vec![task as i64; batch] } else { Vec::new() };
            let mut data = case.data_of(ids);
            let mut random = Random::new(case.attention.seed, GateStream::EveryTask as u64 + 2 * task as u64);
            data.attention.grad_o = random.values(data.attention.grad_o.len(), 1.0);
            if case.tasks.is_none() {
                // Some are 0, so that some heads are used by some tasks, and some by none.
                data.logits = random.values(data.logits.len(), case.logit_size);
                data.logits.iter_mut().filter(|_| random.one_in(2)).for_each(|z| *z = 0.0);
            }
            data
        };
        Self { case: case.clone(), per_task: (0..tasks).map(one).collect() }
    }

    pub fn tasks(&self) -> usize {
        self.per_task.len()
    }

    /// Values per sample and task from those of each task, `size` a sample.
    pub fn interleave<T: Copy>(&self, of: impl Fn(usize) -> Vec<T>) -> Vec<T> {
        let batch = self.case.attention.batch;
        let parts: Vec<Vec<T>> = (0..self.tasks()).map(of).collect();
        let size = parts.first().map_or(0, |part| part.len() / batch);
        let samples = (0..batch).flat_map(|b| parts.iter().map(move |part| &part[b * size..][..size]));
        samples.flatten().copied().collect()
    }

    pub fn on(&self, device: &Device) -> EveryLaunch {
        let (case, tasks) = (&self.case, self.tasks());
        let (batch, heads) = (case.attention.batch, case.heads());
        let first = &self.per_task[0];
        let mut layouts = Random::new(case.attention.seed, GateStream::EveryTask as u64 + 1);
        let free = |values: &[f32], shape: &[usize], layouts: &mut Random| {
            Strided::new(device, values, random_layout(shape, Inner::Free, layouts))
        };
        let rows = |values: &[f32], shape: &[usize], layouts: &mut Random| {
            Strided::new(device, values, random_layout(shape, Inner::Contiguous, layouts))
        };
        let (values, x, bias) = match (&first.dynamic, case.tasks) {
            (Some(d), _) => (
                rows(&d.weights, &[tasks, heads, d.features], &mut layouts),
                Some(rows(&d.x, &[batch, d.features], &mut layouts)),
                (!d.bias.is_empty()).then(|| free(&d.bias, &[tasks, heads], &mut layouts)),
            ),
            (None, Some(_)) => (free(&first.logits, &[tasks, heads], &mut layouts), None, None),
            (None, None) => {
                let values = self.interleave(|task| self.per_task[task].logits.clone());
                let layout = random_layout(&[batch * tasks, heads], Inner::Free, &mut layouts);
                let by = layout.strides();
                let strides = [by[0] * tasks, by[0], by[1]];
                let layout = Layout::new(&[batch, tasks, heads], &strides, layout.offset()).expect("legal");
                (Strided::new(device, &values, layout), None, None)
            }
        };
        let a = &case.attention;
        let grad_y = self.interleave(|task| self.per_task[task].attention.grad_o.clone());
        EveryLaunch {
            launch: Launch::new(device, case, first),
            case: case.clone(),
            tasks,
            values,
            x,
            bias,
            grad_y: rows(&grad_y, &[batch, tasks, heads, a.q_len, a.value_dim], &mut layouts),
        }
    }

    /// A separate call for each task.
    fn apart(&self, device: &Device) -> Result<Vec<Run>, String> {
        self.per_task.iter().map(|data| Launch::new(device, &self.case, data).forward()).collect()
    }
}

fn say(error: gatewarp::Error) -> String {
    error.to_string()
}

impl EveryLaunch {
    pub fn options(&self) -> EveryTaskOptions<'_> {
        let values = self.values.view();
        let gate = match (&self.x, self.case.tasks) {
            (Some(x), _) => EveryTaskGate::Dynamic {
                x: x.view(),
                weights: values,
                bias: self.bias.as_ref().map(Strided::view),
            },
            (None, Some(_)) => EveryTaskGate::Static { logits: values },
            (None, None) => EveryTaskGate::Provided { values },
        };
        EveryTaskOptions {
            noise: Stream::Value { seed: crate::case::NOISE.0, offset: crate::case::NOISE.1 },
            zero_gate_grad: self.case.zero_gate_grad,
            attention: self.launch.attention_options(),
            ..EveryTaskOptions::new(gate, self.case.activation)
        }
    }

    /// Into poisoned, guarded memory.
    pub fn forward(&self, device: &Device) -> Result<EveryRun, String> {
        let a = &self.case.attention;
        let (b, t, h) = (a.batch, self.tasks, self.case.heads());
        let mut random = Random::new(a.seed ^ 0x5eed, 2);
        let mut strided =
            |shape: &[usize], inner| Guarded::new(device, random_layout(shape, inner, &mut random));
        let (y, o) = (
            strided(&[b, t, h, a.q_len, a.value_dim], Inner::Contiguous),
            strided(&[b, h, a.q_len, a.value_dim], Inner::Contiguous),
        );
        let lse = strided(&[b, h, a.q_len], Inner::Free);
        let flat = |shape: &[usize], offset| {
            let strides = Layout::contiguous(shape).expect("legal").strides().to_vec();
            Guarded::new(device, Layout::new(shape, &strides, offset).expect("legal"))
        };
        let options = self.options();
        let list = |shape: &[usize]| {
            let words = vec![0xdead_beef_u32; shape.iter().product()];
            Tensor::from_slice(device, &words, shape).expect("a list")
        };
        let is_noisy = matches!(
            self.case.activation,
            gatewarp::task_heads::Activation::TopK { noise, .. } if noise != 0.0
        );
        let mut memory = Memory {
            y,
            o,
            lse,
            gates: flat(&[b, t, h], 3),
            probabilities: flat(&[b, t, h], 5),
            used: flat(&[b, h], 1),
            z: (self.x.is_some() || is_noisy).then(|| flat(&[b, t, h], 7)),
            lists: [list(&[b * h]), list(&[b * a.kv_heads]), list(&[2]), list(&[b, h])],
        };
        let [order, kv_order, counts, active] = &mut memory.lists;
        let views = EveryTaskViews {
            y: memory.y.view_mut(),
            o: memory.o.view_mut(),
            lse: memory.lse.view_mut(),
            gates: memory.gates.view_mut(),
            probabilities: memory.probabilities.view_mut(),
            used: memory.used.view_mut(),
            order: order.view_mut(),
            kv_order: kv_order.view_mut(),
            counts: counts.view_mut(),
            active: active.view_mut(),
            z: memory.z.as_mut().map(Guarded::view_mut),
        };
        let [q, k, v] = self.launch.inputs().map(|input| input.view());
        task_heads_forward_every_task_into(&q, &k, &v, &options, views).map_err(say)?;
        device.synchronize().map_err(say)?;
        let inputs = [("values", Some(&self.values)), ("x", self.x.as_ref()), ("bias", self.bias.as_ref())];
        inputs
            .iter()
            .try_for_each(|(name, input)| input.map_or(Ok(()), |input| input.check_untouched(name)))?;
        let [order, kv_order, counts, active] = &memory.lists;
        let words = |list: &Tensor| list.to_vec::<u32>().map_err(say);
        Ok(EveryRun {
            y: memory.y.read("y")?,
            o: memory.o.read("o")?,
            lse: memory.lse.read("lse")?,
            gates: memory.gates.read("gates")?,
            probabilities: memory.probabilities.read("probabilities")?,
            used: memory.used.read("used")?,
            z: memory.z.as_ref().map(|z| z.read("z")).transpose()?,
            lists: [words(order)?, words(kv_order)?, words(counts)?, words(active)?],
            memory,
        })
    }

    pub fn backward(&self, run: &EveryRun) -> Result<EveryGradients, String> {
        let dgate = !has_no_gradient(self.case.activation);
        let want = WantTaskHeadsGradients { dgate, ..Default::default() };
        let out = self.launch_backward(run, want).map_err(say)?;
        self.grad_y.check_untouched("grad_y")?;
        read_gradients(out)
    }

    pub fn launch_backward(
        &self,
        run: &EveryRun,
        want: WantTaskHeadsGradients,
    ) -> gatewarp::Result<TaskHeadsGradients> {
        let [q, k, v] = self.launch.inputs().map(|input| input.view());
        let options = self.options();
        task_heads_backward_every_task(&q, &k, &v, &run.saved(), &self.grad_y.view(), &options, want)
    }
}

impl EveryRun {
    pub fn saved(&self) -> EveryTaskSaved<'_> {
        let [order, kv_order, counts, active] = &self.memory.lists;
        EveryTaskSaved {
            o: self.memory.o.view(),
            lse: self.memory.lse.view(),
            gates: self.memory.gates.view(),
            probabilities: self.memory.probabilities.view(),
            used: self.memory.used.view(),
            order: order.view(),
            kv_order: kv_order.view(),
            counts: counts.view(),
            active: active.view(),
        }
    }
}

fn read_gradients(out: TaskHeadsGradients) -> Result<EveryGradients, String> {
    let read =
        |tensor: Option<Tensor>| tensor.map_or(Ok(Vec::new()), |tensor| tensor.to_vec::<f32>().map_err(say));
    let (dx, dweights, dbias) = match out.dynamic {
        Some(d) => (Some(d.dx), Some(d.dweights), d.dbias),
        None => (None, None, None),
    };
    Ok([
        read(out.dq)?,
        read(out.dk)?,
        read(out.dv)?,
        read(out.dgate)?,
        read(dx)?,
        read(dweights)?,
        read(dbias)?,
    ])
}

pub fn every_task_is_separate_calls(device: &TestDevice) -> Result<(), String> {
    check("every_task_is_separate_calls", device, CASES, &noisy(gated(non_empty_case())), |handle, case| {
        let asked = Asked::new(case);
        let (apart, every) = (asked.apart(handle)?, asked.on(handle));
        let run = every.forward(handle)?;
        same_bits("gates", &run.gates, &asked.interleave(|t| apart[t].gates.clone()))?;
        same_bits(
            "probabilities",
            &run.probabilities,
            &asked.interleave(|t| apart[t].probabilities.clone()),
        )?;
        if let Some(z) = &run.z {
            same_bits("z", z, &asked.interleave(|t| apart[t].z.clone().unwrap_or_default()))?;
        }
        same_bits("y", &run.y, &asked.interleave(|t| apart[t].y.clone()))?;
        let (pairs, rows) = (run.used.len(), case.attention.q_len);
        let user = |pair: usize| apart.iter().find(|run| run.active[pair] == 1);
        let want: Vec<f32> = (0..pairs).map(|pair| f32::from(u8::from(user(pair).is_some()))).collect();
        same_bits("used", &run.used, &want)?;
        let [order, kv_order, counts, active] = &run.lists;
        check_lists(&run.used, case.attention.group, order, kv_order, counts, active)?;
        let lse: Vec<f32> = (0..pairs)
            .flat_map(|pair| match user(pair) {
                Some(run) => run.lse[pair * rows..][..rows].to_vec(),
                None => vec![f32::NEG_INFINITY; rows],
            })
            .collect();
        same_bits("lse", &run.lse, &lse)?;

        // What allocates its outputs and knows that they are zero gives them too.
        let [q, k, v] = every.launch.inputs().map(|input| input.view());
        let out = task_heads_forward_every_task(&q, &k, &v, &every.options()).map_err(say)?;
        same_bits("allocated y", &out.y.to_vec().map_err(say)?, &run.y)?;
        same_bits("allocated o", &out.o.to_vec().map_err(say)?, &run.o)?;
        same_bits("allocated lse", &out.lse.to_vec().map_err(say)?, &run.lse)
    })
}

/// Adds up, element by element.
fn sum(parts: impl Iterator<Item = Vec<f64>>) -> Vec<f64> {
    parts
        .reduce(|mut total, part| {
            total.iter_mut().zip(part).for_each(|(total, x)| *total += x);
            total
        })
        .unwrap_or_default()
}

pub fn every_task_gradients_are_the_sums(device: &TestDevice) -> Result<(), String> {
    check(
        "every_task_gradients_are_the_sums",
        device,
        CASES,
        &noisy(gated(non_empty_case())),
        |handle, case| {
            let asked = Asked::new(case);
            let every = asked.on(handle);
            let got = every.backward(&every.forward(handle)?)?;
            let want: Vec<_> = asked
                .per_task
                .iter()
                .map(|data| want::backward(case, data, &want::forward(case, data)))
                .collect();
            let total = |of: fn(&want::WantBackward) -> &Vec<f64>| sum(want.iter().map(|w| of(w).clone()));
            // Each task's own bound, for its share of the one sum.
            close("dq", &got[0], &total(|w| &w.gradients.dq), &total(|w| &w.dq_tolerance))?;
            close("dk", &got[1], &total(|w| &w.gradients.dk), &total(|w| &w.dk_tolerance))?;
            close("dv", &got[2], &total(|w| &w.gradients.dv), &total(|w| &w.dv_tolerance))?;
            if has_no_gradient(case.activation) {
                return Ok(());
            }
            if case.features.is_some() {
                for (i, name) in ["dx", "dweights", "dbias"].iter().enumerate() {
                    let part = |w: &want::WantBackward| {
                        w.dynamic.clone().map(|parts| parts[i].clone()).unwrap_or_default()
                    };
                    let (wanted, allowed) =
                        (sum(want.iter().map(|w| part(w).0)), sum(want.iter().map(|w| part(w).1)));
                    close(name, &got[4 + i], &wanted, &allowed)?;
                }
                return Ok(());
            }
            let (wanted, allowed) = match case.tasks {
                Some(_) => (total(|w| &w.dgate), total(|w| &w.dgate_tolerance)),
                None => (
                    asked.interleave(|t| want[t].dgate.clone()),
                    asked.interleave(|t| want[t].dgate_tolerance.clone()),
                ),
            };
            close("dgate", &got[3], &wanted, &allowed).map(drop)
        },
    )
}

pub fn every_task_gradients_are_central_differences(device: &TestDevice) -> Result<(), String> {
    let name = "every_task_gradients_are_central_differences";
    check(name, device, CASES, &differentiable(), |handle, case| {
        // Those of a linear function follow from z's.
        let case = GateCase { features: None, ..case.clone() };
        let asked = Asked::new(&case);
        let every = asked.on(handle);
        // Where heads tie, top-k and top-p jump.
        let ties = |z: Vec<f64>| (0..z.len()).any(|h| z[..h].contains(&z[h]));
        let samples =
            || asked.per_task.iter().flat_map(|data| (0..case.attention.batch).filter_map(|b| data.z(b)));
        if samples().any(ties) {
            return Ok(());
        }
        let got = every.backward(&every.forward(handle)?)?;
        let mut slack = 0.0;
        let mut derivative = |data: &GateData| -> (Vec<f64>, Vec<f64>) {
            let mut plain = data.attention.problem.clone();
            (plain.row_scale, plain.active) = (None, None);
            let rows = plain.backward(&widen(&data.attention.grad_o), None).drow_scale;
            let products: Vec<f64> = rows.chunks(plain.q_len).map(|rows| rows.iter().sum()).collect();
            slack += CENTRAL_DIFFERENCE
                * (1.0 + products.iter().map(|x| x.abs()).sum::<f64>())
                * case.heads() as f64;
            let logits = widen(&data.logits);
            let by_differences = (0..logits.len()).map(|at| {
                central_difference(&logits, at, CENTRAL_DIFFERENCE_STEP, |z| loss(&case, data, &products, z))
            });
            let want = want::backward(&case, data, &want::forward(&case, data));
            (by_differences.collect(), want.dgate_tolerance)
        };
        let parts: Vec<_> = asked.per_task.iter().map(&mut derivative).collect();
        let (want, allowed) = match case.tasks {
            Some(_) => (sum(parts.iter().map(|p| p.0.clone())), sum(parts.iter().map(|p| p.1.clone()))),
            None => (asked.interleave(|t| parts[t].0.clone()), asked.interleave(|t| parts[t].1.clone())),
        };
        let allowed: Vec<f64> = allowed.iter().map(|bound| bound + slack).collect();
        close("dgate", &got[3], &want, &allowed).map(drop)
    })
}

pub fn every_task_statistics_are_those_of_each(device: &TestDevice) -> Result<(), String> {
    check(
        "every_task_statistics_are_those_of_each",
        device,
        CASES,
        &gated(non_empty_case()),
        |handle, case| {
            let asked = Asked::new(case);
            let run = asked.on(handle).forward(handle)?;
            let all = every_task_statistics(&run.saved(), case.activation).map_err(say)?;
            let heads = case.heads();
            for (task, data) in asked.per_task.iter().enumerate() {
                let launch = Launch::new(handle, case, data);
                let [q, k, v] = launch.inputs().map(|input| input.view());
                let alone =
                    gatewarp::task_heads::task_heads_forward(&q, &k, &v, &launch.options()).map_err(say)?;
                let alone = gate_statistics(&alone.saved(), None, case.activation).map_err(say)?;
                let counts: Vec<u32> = all.counts.to_vec().map_err(say)?;
                if counts[task] as usize != case.attention.batch {
                    return Err(format!("{counts:?} samples of {} each", case.attention.batch));
                }
                for (name, got, want, width) in [
                    ("selected", &all.selected, &alone.selected, heads),
                    ("probability", &all.probability, &alone.probability, heads),
                    ("summary", &all.summary, &alone.summary, 3),
                ] {
                    let got: Vec<f32> = got.to_vec().map_err(say)?;
                    same_bits(name, &got[task * width..][..width], &want.to_vec().map_err(say)?)?;
                }
            }
            Ok(())
        },
    )
}
