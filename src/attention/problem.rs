//! Validation: from a caller's tensors to a problem every backend can trust.

use super::{
    ActiveHeads, AttentionGradientViews, AttentionOptions, AttentionSaved, Dropout, QueryOffset, Score, Seed,
    Sequences, Window, Workspace,
};
use crate::device::Backend;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::ids::Ids;
use crate::tensor::{TensorMut, TensorRef};
use crate::validate;

/// Largest head and value dimension (SPEC of the operation, not of a backend).
pub(crate) const MAX_DIM: usize = 16_384;

/// Longest sequence and largest batch.
const MAX_LEN: usize = 1 << 30;

/// Pages hold a multiple of this many keys.
const PAGE_MULTIPLE: usize = 16;

/// Where the first query of each sample stands.
pub(crate) enum Offset<'a> {
    /// `kv_len − q_len` of the sample.
    BottomRight,
    /// The same for all, saturated to i32.
    At(i32),
    /// One per sample.
    PerSample(Ids<'a>),
}

/// How the sequences of a batch are stored; see [`Sequences`].
#[allow(dead_code)] // no backend reads packed sequences yet
pub(crate) enum Storage<'a> {
    Dense,
    /// `[batch + 1]` first rows of each sample; `q_rows` and `kv_rows` rows exist.
    Packed {
        cu_q: Ids<'a>,
        cu_k: Ids<'a>,
        q_rows: usize,
        kv_rows: usize,
    },
    /// `[batch, pages a sample]` page numbers below `pages`.
    Paged {
        table: Ids<'a>,
        page_size: usize,
        pages: usize,
    },
}

/// A validated call: sizes, options, and inputs whose shapes, types and devices agree.
pub(crate) struct Problem<'a> {
    /// Public name of the operation, for errors.
    pub(crate) op: &'static str,
    pub(crate) batch: usize,
    pub(crate) q_heads: usize,
    pub(crate) kv_heads: usize,
    /// Queries of a sample; with packed sequences, the most a sample has.
    pub(crate) q_len: usize,
    /// Key slots of a sample; its own length is in `kv_len`, `cu_k`, or with pages in both.
    pub(crate) kv_slots: usize,
    pub(crate) head_dim: usize,
    pub(crate) value_dim: usize,
    /// Element type of q, k, v, o and their gradients.
    pub(crate) dtype: DType,
    /// Element type of lse, row scales, slopes, sinks: f64 for f64, else f32.
    pub(crate) accumulator: DType,
    pub(crate) score: Score<'a>,
    /// Factor of the score; `−gamma` of a Gaussian.
    pub(crate) scale: f64,
    pub(crate) softcap: Option<f64>,
    pub(crate) causal: bool,
    pub(crate) window: Option<Window>,
    pub(crate) q: TensorRef<'a>,
    pub(crate) k: TensorRef<'a>,
    pub(crate) v: TensorRef<'a>,
    pub(crate) kv_len: Option<Ids<'a>>,
    pub(crate) offset: Offset<'a>,
    pub(crate) mask: Option<TensorRef<'a>>,
    pub(crate) bias: Option<TensorRef<'a>>,
    pub(crate) alibi: Option<TensorRef<'a>>,
    pub(crate) sinks: Option<TensorRef<'a>>,
    pub(crate) dropout: Option<Dropout<'a>>,
    pub(crate) storage: Storage<'a>,
    pub(crate) heads: Option<ActiveHeads<'a>>,
}

/// Outputs of a forward call.
pub(crate) struct Forward<'a> {
    pub(crate) o: TensorMut<'a>,
    pub(crate) lse: TensorMut<'a>,
    pub(crate) workspace: Workspace<'a>,
}

/// Saved tensors and outputs of a backward call.
pub(crate) struct Backward<'a> {
    pub(crate) saved: AttentionSaved<'a>,
    pub(crate) gradients: AttentionGradientViews<'a>,
    pub(crate) workspace: Workspace<'a>,
}

impl<'a> Problem<'a> {
    pub(crate) fn new(
        op: &'static str,
        q: &TensorRef<'a>,
        k: &TensorRef<'a>,
        v: &TensorRef<'a>,
        options: &AttentionOptions<'a>,
    ) -> Result<Self> {
        let [q_batch, q_heads, q_rows, head_dim] = validate::rank4(op, "q", q)?;
        let [kv_batch, kv_heads, kv_rows, _] = validate::rank4(op, "k", k)?;
        let [_, _, _, value_dim] = validate::rank4(op, "v", v)?;
        let dtype = q.dtype();
        if !matches!(dtype, DType::F32 | DType::F16 | DType::BF16 | DType::F64) {
            return Err(Error::DType { op, arg: "q", expected: "f32, f16, bf16 or f64".into(), got: dtype });
        }
        let accumulator = if dtype == DType::F64 { DType::F64 } else { DType::F32 };
        let (batch, q_len, kv_slots) = match &options.sequences {
            Sequences::Dense => (q_batch, q_rows, kv_rows),
            Sequences::Packed { cu_q, max_q, max_k, .. } => {
                validate::shape(op, "q", q, &[1, q_heads, q_rows, head_dim])?;
                (packed_batch(op, cu_q)?, *max_q, *max_k)
            }
            Sequences::Paged { table, .. } => (q_batch, q_rows, paged_slots(op, table, kv_rows)?),
        };
        let k_batch = match options.sequences {
            Sequences::Dense => batch,
            Sequences::Packed { .. } => 1,
            Sequences::Paged { .. } => kv_batch,
        };
        validate::shape(op, "k", k, &[k_batch, kv_heads, kv_rows, head_dim])?;
        validate::shape(op, "v", v, &[k_batch, kv_heads, kv_rows, value_dim])?;
        for (arg, tensor) in [("q", q), ("k", k), ("v", v)] {
            validate::tensor(op, arg, tensor, dtype, q.device())?;
            validate::last_contiguous(op, arg, tensor)?;
        }
        let groups =
            q_heads.checked_rem(kv_heads).is_some_and(|rest| rest == 0) || (q_heads == 0 && kv_heads == 0);
        if !groups {
            let reason = format!("has {q_heads} heads, not a multiple of the {kv_heads} key heads");
            return Err(Error::argument(op, "q", reason));
        }
        let backend = q.device().backend();
        for (what, dim) in [("head dimension", head_dim), ("value dimension", value_dim)] {
            if dim == 0 || dim > MAX_DIM {
                let (limit, got) = (format!("1..={MAX_DIM}"), dim.to_string());
                return Err(Error::Unsupported { op, backend, what, limit, got });
            }
        }
        let sizes = [
            ("query length", q_len),
            ("query rows", q_rows),
            ("key length", kv_slots),
            ("key rows", kv_rows),
            ("batch", batch),
            ("pages", kv_batch),
            ("heads", q_heads),
        ];
        for (what, len) in sizes {
            if len > MAX_LEN {
                let (limit, got) = (MAX_LEN.to_string(), len.to_string());
                return Err(Error::Unsupported { op, backend, what, limit, got });
            }
        }
        let kv_len = options.kv_len.as_ref().map(|ids| {
            Ids::new(op, "kv_len", ids, &[batch], q.device(), |len| {
                if (0..=kv_slots as i64).contains(&len) {
                    return Ok(());
                }
                Err(Error::argument(op, "kv_len", format!("holds {len}, outside 0..={kv_slots}")))
            })
        });
        let offset = match &options.query_offset {
            QueryOffset::BottomRight => Offset::BottomRight,
            QueryOffset::At(at) => Offset::At((*at).clamp(i32::MIN.into(), i32::MAX.into()) as i32),
            QueryOffset::PerSample(ids) => {
                Offset::PerSample(Ids::new(op, "query_offset", ids, &[batch], q.device(), |_| Ok(()))?)
            }
        };
        let storage = match &options.sequences {
            Sequences::Dense => Storage::Dense,
            Sequences::Packed { cu_q, cu_k, .. } => {
                if options.kv_len.is_some() {
                    let reason = "is given with packed sequences, whose lengths are in `cu_k`";
                    return Err(Error::argument(op, "kv_len", reason));
                }
                let cu_q = cumulative(op, "cu_seqlens_q", cu_q, batch, q_rows, q_len, q)?;
                let cu_k = cumulative(op, "cu_seqlens_k", cu_k, batch, kv_rows, kv_slots, q)?;
                Storage::Packed { cu_q, cu_k, q_rows, kv_rows }
            }
            Sequences::Paged { table, .. } => {
                if options.kv_len.is_none() {
                    return Err(Error::argument(op, "kv_len", "is missing, which a paged cache needs"));
                }
                let per_sample = table.shape()[1];
                let table = Ids::new(op, "page_table", table, &[batch, per_sample], q.device(), |_| Ok(()))?;
                Storage::Paged { table, page_size: kv_rows, pages: kv_batch }
            }
        };
        let problem = Self {
            op,
            batch,
            q_heads,
            kv_heads,
            q_len,
            kv_slots,
            head_dim,
            value_dim,
            dtype,
            accumulator,
            score: options.score.clone(),
            scale: scale(op, options, head_dim)?,
            softcap: options.softcap,
            causal: options.causal,
            window: options.window,
            q: q.clone(),
            k: k.clone(),
            v: v.clone(),
            kv_len: kv_len.transpose()?,
            offset,
            mask: options.mask.clone(),
            bias: options.bias.clone(),
            alibi: options.alibi.clone(),
            sinks: options.sinks.clone(),
            dropout: options.dropout.clone(),
            storage,
            heads: options.heads.clone(),
        };
        problem.check_numbers()?;
        problem.check_tables()?;
        problem.check_heads()?;
        problem.check_pages()?;
        Ok(problem)
    }

    /// Refuses f64 where there is none.
    pub(crate) fn check_element_type(&self) -> Result<()> {
        let backend = self.q.device().backend();
        if backend != Backend::Wgpu || self.dtype != DType::F64 {
            return Ok(());
        }
        let (what, limit) = ("element type", "f32, f16, bf16".into());
        Err(Error::Unsupported { op: self.op, backend, what, limit, got: self.dtype.to_string() })
    }

    /// Options that are plain numbers.
    fn check_numbers(&self) -> Result<()> {
        let op = self.op;
        if let Some(softcap) = self.softcap.filter(|cap| !(*cap > 0.0) || !cap.is_finite()) {
            return Err(Error::argument(op, "softcap", format!("is {softcap}, not a finite number above 0")));
        }
        if let Some(window) = self.window {
            for (side, size) in [("left", window.left), ("right", window.right)] {
                if size < 0 {
                    return Err(Error::argument(op, "window", format!("has {side} = {size}, below 0")));
                }
            }
        }
        if let Some(dropout) = &self.dropout {
            if !(0.0..1.0).contains(&dropout.p) {
                return Err(Error::argument(op, "dropout.p", format!("is {}, outside [0, 1)", dropout.p)));
            }
            if let Seed::Device(seed) = &dropout.seed {
                validate::shape(op, "dropout.seed", seed, &[2])?;
                validate::tensor(op, "dropout.seed", seed, DType::I64, self.q.device())?;
                validate::contiguous(op, "dropout.seed", seed)?;
            }
        }
        let is_complex = matches!(self.score, Score::ComplexDot | Score::Fidelity);
        if is_complex && !self.head_dim.is_multiple_of(2) {
            let reason =
                format!("has head dimension {}, odd, under a score of complex vectors", self.head_dim);
            return Err(Error::argument(op, "q", reason));
        }
        Ok(())
    }

    /// Optional tensors that belong to scores and masks.
    fn check_tables(&self) -> Result<()> {
        let (op, device) = (self.op, self.q.device());
        if let Score::Additive { w } = &self.score {
            if w.shape() != [self.head_dim] {
                let expected = format!("[{}] or [{}, {0}]", self.head_dim, self.q_heads);
                if w.shape() != [self.q_heads, self.head_dim] {
                    return Err(Error::shape(op, "w", expected, w.shape()));
                }
            }
            validate::tensor(op, "w", w, self.accumulator, device)?;
            validate::last_contiguous(op, "w", w)?;
        }
        for (arg, tensor) in [("alibi", &self.alibi), ("sinks", &self.sinks)] {
            let Some(tensor) = tensor else { continue };
            validate::shape(op, arg, tensor, &[self.q_heads])?;
            validate::tensor(op, arg, tensor, self.accumulator, device)?;
        }
        let full = [self.batch, self.q_heads, self.q_len, self.kv_slots];
        for (arg, tensor) in [("mask", &self.mask), ("bias", &self.bias)] {
            let Some(tensor) = tensor else { continue };
            let sizes = validate::rank4(op, arg, tensor)?;
            if sizes.iter().zip(full).any(|(&size, all)| size != all && size != 1) {
                let expected = format!("{full:?}, or 1 where it is the same for all");
                return Err(Error::shape(op, arg, expected, tensor.shape()));
            }
            let dtype = match (arg, tensor.dtype()) {
                ("mask", _) => DType::U8,
                (_, DType::F32) if self.accumulator == DType::F32 => DType::F32,
                _ => self.dtype,
            };
            validate::tensor(op, arg, tensor, dtype, device)?;
        }
        Ok(())
    }

    fn check_heads(&self) -> Result<()> {
        let Some(heads) = &self.heads else { return Ok(()) };
        let (op, device) = (self.op, self.q.device());
        let (pairs, kv_pairs) = (self.batch * self.q_heads, self.batch * self.kv_heads);
        let lists: [(&'static str, &TensorRef<'_>, &[usize]); 4] = [
            ("heads.order", &heads.order, &[pairs]),
            ("heads.kv_order", &heads.kv_order, &[kv_pairs]),
            ("heads.counts", &heads.counts, &[2]),
            ("heads.active", &heads.active, &[self.batch, self.q_heads]),
        ];
        for (arg, tensor, shape) in lists {
            validate::shape(op, arg, tensor, shape)?;
            validate::tensor(op, arg, tensor, DType::U32, device)?;
            validate::contiguous(op, arg, tensor)?;
        }
        validate::shape(op, "heads.row_scale", &heads.row_scale, &self.lse_shape())?;
        validate::tensor(op, "heads.row_scale", &heads.row_scale, self.accumulator, device)
    }

    /// Page numbers the host can see; only those of keys that exist are looked at.
    fn check_pages(&self) -> Result<()> {
        let Storage::Paged { table, page_size, pages } = &self.storage else { return Ok(()) };
        let (Some(table), Some(lengths)) =
            (table.visible()?, self.kv_len.as_ref().map(Ids::visible).transpose()?.flatten())
        else {
            return Ok(());
        };
        let per_sample = self.kv_slots / page_size;
        for (sample, &length) in lengths.iter().enumerate() {
            let used = (length as usize).div_ceil(*page_size).min(per_sample);
            let row = &table[sample * per_sample..][..used];
            if let Some(bad) = row.iter().find(|&&page| page < 0 || page >= *pages as i64) {
                return Err(Error::argument(
                    self.op,
                    "page_table",
                    format!("holds {bad}, outside 0..{pages}"),
                ));
            }
        }
        Ok(())
    }

    pub(crate) fn o_shape(&self) -> [usize; 4] {
        let [batch, heads, rows] = self.lse_shape();
        [batch, heads, rows, self.value_dim]
    }

    pub(crate) fn lse_shape(&self) -> [usize; 3] {
        [self.q.shape()[0], self.q_heads, self.q.shape()[2]]
    }

    /// Whether there is no query row at all.
    pub(crate) fn has_no_rows(&self) -> bool {
        self.lse_shape().contains(&0)
    }

    /// First rows of the sequences and of their keys, where they lie end to end.
    pub(crate) fn into_starts(self) -> Option<[Ids<'a>; 2]> {
        match self.storage {
            Storage::Packed { cu_q, cu_k, .. } => Some([cu_q, cu_k]),
            _ => None,
        }
    }

    /// Whether sequences lie end to end.
    pub(crate) fn is_packed(&self) -> bool {
        matches!(self.storage, Storage::Packed { .. })
    }

    /// Query heads that share one key head.
    pub(crate) fn group(&self) -> usize {
        self.q_heads / self.kv_heads.max(1)
    }

    /// Every tensor a call reads, by argument name.
    fn inputs(&self) -> Vec<(&'static str, &TensorRef<'a>)> {
        let mut inputs = vec![("q", &self.q), ("k", &self.k), ("v", &self.v)];
        let optional = [
            ("mask", self.mask.as_ref()),
            ("bias", self.bias.as_ref()),
            ("alibi", self.alibi.as_ref()),
            ("sinks", self.sinks.as_ref()),
            ("heads.row_scale", self.heads.as_ref().map(|heads| &heads.row_scale)),
        ];
        inputs.extend(optional.into_iter().filter_map(|(arg, tensor)| Some((arg, tensor?))));
        if let Score::Additive { w } = &self.score {
            inputs.push(("w", w));
        }
        inputs
    }

    pub(crate) fn check_forward(&self, call: &Forward<'_>) -> Result<()> {
        self.check_output("o", &call.o, &self.o_shape(), self.dtype)?;
        validate::last_contiguous(self.op, "o", call.o.as_ref())?;
        self.check_output("lse", &call.lse, &self.lse_shape(), self.accumulator)?;
        let mut outputs = vec![("o", call.o.as_ref()), ("lse", call.lse.as_ref())];
        self.check_workspace(&call.workspace, &mut outputs)?;
        validate::disjoint(self.op, &outputs, &self.inputs())
    }

    pub(crate) fn check_backward(&self, call: &Backward<'_>) -> Result<()> {
        let (op, device) = (self.op, self.q.device());
        if matches!(self.storage, Storage::Paged { .. }) {
            let reason = "are paged, which only the forward pass takes: pages may be shared between samples";
            return Err(Error::argument(op, "sequences", reason));
        }
        let saved = &call.saved;
        let mut inputs = self.inputs();
        for (arg, tensor) in [("o", &saved.o), ("grad_o", &saved.grad_o)] {
            validate::shape(op, arg, tensor, &self.o_shape())?;
            validate::tensor(op, arg, tensor, self.dtype, device)?;
            validate::last_contiguous(op, arg, tensor)?;
            inputs.push((arg, tensor));
        }
        let rows = [("lse", Some(&saved.lse)), ("grad_lse", saved.grad_lse.as_ref())];
        for (arg, tensor) in rows.into_iter().filter_map(|(arg, t)| Some((arg, t?))) {
            validate::shape(op, arg, tensor, &self.lse_shape())?;
            validate::tensor(op, arg, tensor, self.accumulator, device)?;
            inputs.push((arg, tensor));
        }
        let mut outputs = Vec::new();
        for (arg, view) in call.gradients.named() {
            let Some(view) = view else { continue };
            let (shape, dtype) = self.gradient_like(arg)?;
            self.check_output(arg, view, &shape, dtype)?;
            if matches!(arg, "dq" | "dk" | "dv" | "dw") {
                validate::last_contiguous(op, arg, view.as_ref())?;
            }
            outputs.push((arg, view.as_ref()));
        }
        self.check_workspace(&call.workspace, &mut outputs)?;
        validate::disjoint(op, &outputs, &inputs)
    }

    /// Shape and element type of a gradient.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if the call has no such input.
    pub(crate) fn gradient_like(&self, arg: &'static str) -> Result<(Vec<usize>, DType)> {
        let like = |tensor: Option<&TensorRef<'_>>, input: &str| {
            let reason = format!("is asked for without `{input}`");
            let tensor = tensor.ok_or_else(|| Error::argument(self.op, arg, reason))?;
            Ok((tensor.shape().to_vec(), tensor.dtype()))
        };
        match arg {
            "dq" => like(Some(&self.q), "q"),
            "dk" => like(Some(&self.k), "k"),
            "dv" => like(Some(&self.v), "v"),
            "dbias" => like(self.bias.as_ref(), "bias"),
            "dsinks" => like(self.sinks.as_ref(), "sinks"),
            "dalibi" => like(self.alibi.as_ref(), "alibi"),
            "dw" => match &self.score {
                Score::Additive { w } => like(Some(w), "w"),
                _ => like(None, "Score::Additive"),
            },
            "dscale" => Ok((vec![1], self.accumulator)),
            // A strided broadcast of row scales has one gradient a row.
            "drow_scale" if self.heads.is_some() => Ok((self.lse_shape().to_vec(), self.accumulator)),
            _ => like(None, "heads"),
        }
    }

    fn check_output(
        &self,
        arg: &'static str,
        view: &TensorMut<'_>,
        shape: &[usize],
        dtype: DType,
    ) -> Result<()> {
        validate::shape(self.op, arg, view.as_ref(), shape)?;
        validate::tensor(self.op, arg, view.as_ref(), dtype, self.q.device())
    }

    /// A workspace of the caller's is contiguous bytes on the device; its size is the backend's to check.
    fn check_workspace<'w>(
        &self,
        workspace: &'w Workspace<'_>,
        outputs: &mut Vec<(&'static str, &'w TensorRef<'w>)>,
    ) -> Result<()> {
        let Workspace::Given(memory) = workspace else { return Ok(()) };
        validate::tensor(self.op, "workspace", memory.as_ref(), DType::U8, self.q.device())?;
        validate::contiguous(self.op, "workspace", memory.as_ref())?;
        outputs.push(("workspace", memory.as_ref()));
        Ok(())
    }
}

/// The factor of a score, from the caller's options.
fn scale(op: &'static str, options: &AttentionOptions<'_>, head_dim: usize) -> Result<f64> {
    let (default, arg) = match &options.score {
        Score::Dot => (1.0 / (head_dim as f64).sqrt(), "scale"),
        Score::ComplexDot => (1.0 / (head_dim as f64 / 2.0).sqrt(), "scale"),
        Score::Cosine | Score::Fidelity | Score::Additive { .. } => (1.0, "scale"),
        Score::Gaussian { gamma } => (-gamma, "gamma"),
    };
    if arg == "gamma" && options.scale.is_some() {
        return Err(Error::argument(op, "scale", "is given with a Gaussian score, which has `gamma`"));
    }
    let scale = options.scale.unwrap_or(default);
    // Kernels of 32-bit and narrower types hold it in f32.
    if !(scale as f32).is_finite() {
        return Err(Error::argument(op, arg, format!("is {scale}, which is not a finite f32")));
    }
    Ok(scale)
}

fn packed_batch(op: &'static str, cu_q: &TensorRef<'_>) -> Result<usize> {
    match cu_q.shape() {
        [entries] if *entries > 0 => Ok(entries - 1),
        shape => Err(Error::shape(op, "cu_seqlens_q", "[batch + 1]", shape)),
    }
}

/// Key slots of a sample with pages of `page_size` keys.
fn paged_slots(op: &'static str, table: &TensorRef<'_>, page_size: usize) -> Result<usize> {
    let [_, per_sample] = *table.shape() else {
        return Err(Error::shape(op, "page_table", "[batch, pages a sample]", table.shape()));
    };
    if page_size == 0 || !page_size.is_multiple_of(PAGE_MULTIPLE) {
        let reason = format!("has pages of {page_size} keys, not a multiple of {PAGE_MULTIPLE}");
        return Err(Error::argument(op, "k", reason));
    }
    per_sample.checked_mul(page_size).ok_or_else(|| Error::argument(op, "page_table", "is too large"))
}

/// Checks `[batch + 1]` first rows: from 0, ascending, no sequence longer than `longest`, all within `rows`.
fn cumulative<'a>(
    op: &'static str,
    arg: &'static str,
    ids: &TensorRef<'a>,
    batch: usize,
    rows: usize,
    longest: usize,
    q: &TensorRef<'_>,
) -> Result<Ids<'a>> {
    let ids = Ids::new(op, arg, ids, &[batch + 1], q.device(), |_| Ok(()))?;
    let Some(values) = ids.visible()? else { return Ok(ids) };
    let wrong = |reason: String| Err(Error::argument(op, arg, reason));
    if values[0] != 0 {
        return wrong(format!("starts at {}, not at 0", values[0]));
    }
    for pair in values.windows(2) {
        if pair[1] < pair[0] {
            return wrong(format!("falls from {} to {}", pair[0], pair[1]));
        }
        if pair[1] - pair[0] > longest as i64 {
            return wrong(format!(
                "has a sequence of {}, longer than the {longest} announced",
                pair[1] - pair[0]
            ));
        }
    }
    let last = values[batch];
    if last > rows as i64 {
        return wrong(format!("ends at {last}, beyond the {rows} rows"));
    }
    Ok(ids)
}
