//! One problem on one device, through the public calls: inputs with traps in their gaps, outputs poisoned and guarded.

use crate::case::{Case, Data, option};
use crate::support::elements::{Input, Output};
use crate::support::guarded::{Inner, random_layout};
use crate::support::oracle_attention::{General, Score as OracleScore, Table};
use crate::support::random::Random;
use gatewarp::attention::{
    AttentionGradientViews, AttentionOptions, AttentionRow, AttentionSaved, Dropout, QueryOffset, Score,
    Seed, Sequences, Window, Workspace, attention_backward_into, attention_backward_workspace,
    attention_entropy, attention_forward_into, attention_forward_workspace, attention_weights,
};
use gatewarp::{DType, Device, Layout, Tensor, TensorRef};

/// A problem's inputs on a device.
pub struct Launch<'a> {
    device: &'a Device,
    dtype: DType,
    case: &'a Case,
    problem: &'a General,
    q: Input,
    k: Input,
    v: Input,
    grad_o: Input,
    grad_lse: Input,
    kv_len: Option<Tensor>,
    offset: Option<Tensor>,
    cu: Option<(Tensor, Tensor)>,
    mask: Option<(Tensor, Layout)>,
    bias: Option<Input>,
    alibi: Option<Input>,
    sinks: Option<Input>,
    w: Input,
}

/// Outputs of a forward pass: as values, and as the memory a backward pass reads. Dense, absent rows 0.
pub struct ForwardRun {
    pub o: Vec<f64>,
    pub lse: Vec<f64>,
    memory: (Output, Output),
}

/// Outputs of a backward pass, in the oracle's shapes.
#[derive(Default)]
pub struct GradientRun {
    pub dq: Vec<f64>,
    pub dk: Vec<f64>,
    pub dv: Vec<f64>,
    pub dbias: Vec<f64>,
    pub dsinks: Vec<f64>,
    pub dalibi: Vec<f64>,
    pub dw: Vec<f64>,
    pub dscale: Vec<f64>,
}

/// A workspace between guards.
struct Guards {
    memory: Tensor,
    bytes: usize,
}

impl Guards {
    const BYTE: u8 = 0xa5;
    const BEFORE: usize = 77;

    fn view(this: &mut Option<Self>) -> gatewarp::Result<Workspace<'_>> {
        match this {
            None => Ok(Workspace::Allocate),
            Some(Self { memory, bytes }) => {
                memory.view_mut().narrow(0, Self::BEFORE, *bytes).map(Workspace::Given)
            }
        }
    }

    fn check(this: &Option<Self>) -> Result<(), String> {
        let Some(Self { memory, bytes }) = this else { return Ok(()) };
        let all = memory.to_vec::<u8>().map_err(|error| error.to_string())?;
        let mut beside = all[..Self::BEFORE].iter().chain(&all[Self::BEFORE + bytes..]);
        match beside.position(|&byte| byte != Self::BYTE) {
            None => Ok(()),
            Some(at) => Err(format!("guard {at} of a workspace of {bytes} bytes was written")),
        }
    }
}

/// Rows of samples end to end instead of in slots of equal size: which dense rows, per head, are the packed ones.
struct Packing {
    heads: usize,
    slots: usize,
    lengths: Vec<usize>,
}

impl Packing {
    fn total(&self) -> usize {
        self.lengths.iter().sum()
    }

    /// First packed row of each sample, and the total.
    fn cumulative(&self) -> Vec<i32> {
        let sums = self.lengths.iter().scan(0, |sum, &n| {
            *sum += n as i32;
            Some(*sum)
        });
        std::iter::once(0).chain(sums).collect()
    }

    /// (packed element, dense element) of rows of `width`.
    fn pairs(&self, width: usize) -> Vec<(usize, usize)> {
        let (total, first) = (self.total(), self.cumulative());
        let mut pairs = Vec::new();
        for (b, &length) in self.lengths.iter().enumerate() {
            for h in 0..self.heads {
                for i in 0..length {
                    let (packed, dense) =
                        (h * total + first[b] as usize + i, (b * self.heads + h) * self.slots + i);
                    pairs.extend((0..width).map(|d| (packed * width + d, dense * width + d)));
                }
            }
        }
        pairs
    }

    fn pack(&self, dense: &[f64], width: usize) -> Vec<f64> {
        let mut packed = vec![0.0; self.heads * self.total() * width];
        self.pairs(width).into_iter().for_each(|(to, from)| packed[to] = dense[from]);
        packed
    }

    fn unpack(&self, packed: &[f64], width: usize) -> Vec<f64> {
        let mut dense = vec![0.0; self.lengths.len() * self.heads * self.slots * width];
        self.pairs(width).into_iter().for_each(|(from, to)| dense[to] = packed[from]);
        dense
    }
}

fn mask_tensor(device: &Device, mask: &Table<bool>, random: &mut Random) -> (Tensor, Layout) {
    let layout = random_layout(&mask.shape, Inner::Free, random);
    let mut bytes = vec![7u8; layout.end() + 3];
    let indices = crate::support::guarded::element_indices(&layout);
    // Any byte but 0 lets a query see.
    indices
        .iter()
        .zip(&mask.values)
        .for_each(|(&at, &seen)| bytes[at] = if seen { 1 + random.below(255) as u8 } else { 0 });
    (Tensor::from_slice(device, &bytes, &[bytes.len()]).expect("a mask"), layout)
}

impl<'a> Launch<'a> {
    /// Uploads a problem with random strides.
    pub fn new(device: &'a Device, dtype: DType, case: &'a Case, data: &'a Data) -> Self {
        let p = &data.problem;
        let accumulator = if dtype == DType::F64 { DType::F64 } else { DType::F32 };
        let mut random = Random::new(case.seed, 99);
        let packed = case.has(option::PACKED);
        let q_packing = Packing { heads: p.q_heads, slots: p.q_slots, lengths: p.q_len.clone() };
        let k_packing = Packing { heads: p.kv_heads, slots: p.kv_slots, lengths: p.kv_len.clone() };
        let mut matrix = |packing: &Packing, values: &[f64], width: usize| {
            let (shape, values) = match packed {
                true => ([1, packing.heads, packing.total(), width], packing.pack(values, width)),
                false => ([p.batch, packing.heads, packing.slots, width], values.to_vec()),
            };
            Input::new(device, dtype, &values, random_layout(&shape, Inner::Contiguous, &mut random))
        };
        let q = matrix(&q_packing, &p.q, p.head_dim);
        let k = matrix(&k_packing, &p.k, p.head_dim);
        let v = matrix(&k_packing, &p.v, p.value_dim);
        let grad_o = matrix(&q_packing, &data.grad_o, p.value_dim);
        let (rows, grad_lse) = match packed {
            true => ([1, p.q_heads, q_packing.total()], q_packing.pack(&data.grad_lse, 1)),
            false => ([p.batch, p.q_heads, p.q_slots], data.grad_lse.clone()),
        };
        let mut free = |dtype, values: &[f64], shape: &[usize]| {
            Input::new(device, dtype, values, random_layout(shape, Inner::Free, &mut random))
        };
        let grad_lse = free(accumulator, &grad_lse, &rows);
        let bias = p.bias.as_ref().map(|bias| {
            let dtype = if case.seed.is_multiple_of(3) && dtype != DType::F64 { DType::F32 } else { dtype };
            free(dtype, &bias.values, &bias.shape)
        });
        let alibi = p.alibi.as_ref().map(|alibi| free(accumulator, alibi, &[p.q_heads]));
        let sinks = p.sinks.as_ref().map(|sinks| free(accumulator, sinks, &[p.q_heads]));
        let (w_shape, w) = match case.seed % 2 {
            0 => (vec![p.head_dim], &p.w[..p.head_dim]),
            _ => (vec![p.q_heads, p.head_dim], &p.w[..]),
        };
        let w = Input::new(device, accumulator, w, random_layout(&w_shape, Inner::Contiguous, &mut random));
        let mask = p.mask.as_ref().map(|mask| mask_tensor(device, mask, &mut random));
        let integers =
            |values: Vec<i32>| Tensor::from_slice(device, &values, &[values.len()]).expect("integers");
        let lengths = || p.kv_len.iter().map(|&n| n as i32).collect();
        Self {
            kv_len: (case.has(option::LENGTHS) && !packed).then(|| integers(lengths())),
            offset: case.has(option::OFFSET).then(|| integers(p.offset.iter().map(|&x| x as i32).collect())),
            cu: packed.then(|| (integers(q_packing.cumulative()), integers(k_packing.cumulative()))),
            device,
            dtype,
            case,
            problem: p,
            q,
            k,
            v,
            grad_o,
            grad_lse,
            mask,
            bias,
            alibi,
            sinks,
            w,
        }
    }

    fn accumulator(&self) -> DType {
        if self.dtype == DType::F64 { DType::F64 } else { DType::F32 }
    }

    fn packings(&self) -> Option<(Packing, Packing)> {
        let p = self.problem;
        self.cu.as_ref().map(|_| {
            (
                Packing { heads: p.q_heads, slots: p.q_slots, lengths: p.q_len.clone() },
                Packing { heads: p.kv_heads, slots: p.kv_slots, lengths: p.kv_len.clone() },
            )
        })
    }

    /// Options as a caller writes them.
    pub fn options(&self) -> AttentionOptions<'_> {
        let p = self.problem;
        AttentionOptions {
            score: match p.score {
                OracleScore::Dot => Score::Dot,
                OracleScore::Cosine => Score::Cosine,
                OracleScore::ComplexDot => Score::ComplexDot,
                OracleScore::Fidelity => Score::Fidelity,
                OracleScore::Gaussian => Score::Gaussian { gamma: p.scale },
                OracleScore::Additive => Score::Additive { w: self.w.view() },
            },
            scale: (self.case.has(option::SCALE) && p.score != OracleScore::Gaussian).then_some(p.scale),
            softcap: p.softcap,
            causal: p.causal,
            window: p.window.map(|(left, right)| Window { left, right }),
            query_offset: match &self.offset {
                Some(list) => QueryOffset::PerSample(list.view()),
                None => QueryOffset::BottomRight,
            },
            kv_len: self.kv_len.as_ref().map(Tensor::view),
            mask: self.mask.as_ref().map(|(memory, layout)| {
                memory.view().with_layout(*layout).expect("the layout fits its allocation")
            }),
            bias: self.bias.as_ref().map(Input::view),
            alibi: self.alibi.as_ref().map(Input::view),
            sinks: self.sinks.as_ref().map(Input::view),
            dropout: p.dropout.map(|dropout| Dropout {
                p: dropout.p,
                seed: Seed::Host { seed: dropout.seed, offset: dropout.offset },
            }),
            sequences: match &self.cu {
                None => Sequences::Dense,
                Some((cu_q, cu_k)) => Sequences::Packed {
                    cu_q: cu_q.view(),
                    cu_k: cu_k.view(),
                    max_q: p.q_slots,
                    max_k: p.kv_slots,
                },
            },
            heads: None,
        }
    }

    fn rows_shape(&self) -> Vec<usize> {
        match self.packings() {
            Some((q, _)) => vec![1, q.heads, q.total()],
            None => vec![self.problem.batch, self.problem.q_heads, self.problem.q_slots],
        }
    }

    fn output(
        &self,
        dtype: DType,
        like: &TensorRef<'_>,
        last: Option<usize>,
        inner: Inner,
        stream: u64,
    ) -> Output {
        let mut shape = like.shape().to_vec();
        if let (Some(last), Some(size)) = (last, shape.last_mut()) {
            *size = last;
        }
        Output::new(
            self.device,
            dtype,
            random_layout(&shape, inner, &mut Random::new(self.case.seed, stream)),
        )
    }

    /// The workspace that this case brings, if it does: guards around it, and no boundary where it starts.
    fn workspace(&self, bytes: gatewarp::Result<usize>) -> gatewarp::Result<Option<Guards>> {
        if !self.case.seed.is_multiple_of(4) {
            return Ok(None);
        }
        let bytes = bytes?;
        let memory = vec![Guards::BYTE; Guards::BEFORE + bytes + Guards::BEFORE];
        let memory = Tensor::from_slice(self.device, &memory, &[memory.len()])?;
        Ok(Some(Guards { memory, bytes }))
    }

    /// A forward pass, whatever comes of it.
    pub fn try_forward(&self) -> gatewarp::Result<(Output, Output)> {
        let (q, k, v, options) = (self.q.view(), self.k.view(), self.v.view(), self.options());
        let mut o = self.output(self.dtype, &q, Some(self.problem.value_dim), Inner::Contiguous, 11);
        let lse_layout = random_layout(&self.rows_shape(), Inner::Free, &mut Random::new(self.case.seed, 12));
        let mut lse = Output::new(self.device, self.accumulator(), lse_layout);
        let mut memory = self.workspace(attention_forward_workspace(&q, &k, &v, &options))?;
        let workspace = Guards::view(&mut memory)?;
        attention_forward_into(&q, &k, &v, &options, &mut o.view_mut(), &mut lse.view_mut(), workspace)?;
        self.device.synchronize()?;
        assert_eq!(Guards::check(&memory), Ok(()), "forward");
        Ok((o, lse))
    }

    /// A forward pass; every element written, nothing else.
    pub fn forward(&self) -> Result<ForwardRun, String> {
        let (o, lse) = self.try_forward().map_err(|error| format!("{}: {error}", self.device.name()))?;
        let (mut o_values, mut lse_values) = (o.read("o")?, lse.read("lse")?);
        if let Some((packing, _)) = self.packings() {
            o_values = packing.unpack(&o_values, self.problem.value_dim);
            lse_values = packing.unpack(&lse_values, 1);
        }
        Ok(ForwardRun { o: o_values, lse: lse_values, memory: (o, lse) })
    }

    /// Weights of `rows`, `[rows, key slots]`, and the entropy of every row, dense, absent rows 0.
    pub fn look(&self, saved: &ForwardRun, rows: &[AttentionRow]) -> Result<(Vec<f64>, Vec<f64>), String> {
        let (q, k, lse, options) = (self.q.view(), self.k.view(), saved.memory.1.view(), self.options());
        let say = |error: gatewarp::Error| format!("{}: looking: {error}", self.device.name());
        let values = |tensor: Tensor| -> gatewarp::Result<Vec<f64>> {
            Ok(match tensor.dtype() {
                DType::F64 => tensor.to_vec::<f64>()?,
                _ => tensor.to_vec::<f32>()?.into_iter().map(f64::from).collect(),
            })
        };
        let weights = attention_weights(&q, &k, &lse, &options, rows).map_err(say)?;
        if weights.shape() != [rows.len(), self.problem.kv_slots] {
            return Err(format!("weights have shape {:?}", weights.shape()));
        }
        let weights = values(weights).map_err(say)?;
        let entropy = attention_entropy(&q, &k, &lse, &options).and_then(values).map_err(say)?;
        let entropy = match self.packings() {
            Some((packing, _)) => packing.unpack(&entropy, 1),
            None => entropy,
        };
        Ok((weights, entropy))
    }

    /// A backward pass for every gradient there is.
    pub fn backward(&self, saved: &ForwardRun) -> Result<GradientRun, String> {
        let (q, k, v, options) = (self.q.view(), self.k.view(), self.v.view(), self.options());
        let free = |input: &Input, stream| {
            let view = input.view();
            self.output(view.dtype(), &view, None, Inner::Free, stream)
        };
        let mut dq = self.output(self.dtype, &q, None, Inner::Contiguous, 13);
        let mut dk = self.output(self.dtype, &k, None, Inner::Contiguous, 14);
        let mut dv = self.output(self.dtype, &v, None, Inner::Contiguous, 15);
        let mut dbias = self.bias.as_ref().map(|bias| free(bias, 16));
        let mut dsinks = self.sinks.as_ref().map(|sinks| free(sinks, 17));
        let mut dalibi = self.alibi.as_ref().map(|alibi| free(alibi, 18));
        let additive = self.problem.score == OracleScore::Additive;
        let mut dw = additive.then(|| {
            let view = self.w.view();
            self.output(view.dtype(), &view, None, Inner::Contiguous, 19)
        });
        let mut dscale =
            Output::new(self.device, self.accumulator(), Layout::contiguous(&[1]).expect("one element"));
        let views = AttentionGradientViews {
            dq: Some(dq.view_mut()),
            dk: Some(dk.view_mut()),
            dv: Some(dv.view_mut()),
            dbias: dbias.as_mut().map(Output::view_mut),
            dsinks: dsinks.as_mut().map(Output::view_mut),
            dalibi: dalibi.as_mut().map(Output::view_mut),
            dw: dw.as_mut().map(Output::view_mut),
            dscale: Some(dscale.view_mut()),
            drow_scale: None,
        };
        let grads = AttentionSaved {
            o: saved.memory.0.view(),
            lse: saved.memory.1.view(),
            grad_o: self.grad_o.view(),
            grad_lse: Some(self.grad_lse.view()),
        };
        let say = |error: gatewarp::Error| format!("{}: backward: {error}", self.device.name());
        let mut memory = self.workspace(attention_backward_workspace(&q, &k, &v, &options)).map_err(say)?;
        let workspace = Guards::view(&mut memory).map_err(say)?;
        attention_backward_into(&q, &k, &v, &grads, &options, views, workspace).map_err(say)?;
        self.device.synchronize().map_err(say)?;
        Guards::check(&memory)?;

        let optional =
            |what: &str, output: &Option<Output>| output.as_ref().map_or(Ok(Vec::new()), |o| o.read(what));
        let mut run = GradientRun {
            dq: dq.read("dq")?,
            dk: dk.read("dk")?,
            dv: dv.read("dv")?,
            dbias: optional("dbias", &dbias)?,
            dsinks: optional("dsinks", &dsinks)?,
            dalibi: optional("dalibi", &dalibi)?,
            dw: optional("dw", &dw)?,
            dscale: dscale.read("dscale")?,
        };
        if let Some((q, k)) = self.packings() {
            run.dq = q.unpack(&run.dq, self.problem.head_dim);
            run.dk = k.unpack(&run.dk, self.problem.head_dim);
            run.dv = k.unpack(&run.dv, self.problem.value_dim);
        }
        Ok(run)
    }
}
