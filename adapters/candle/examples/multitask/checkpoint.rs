//! Runs as safetensors files: parameters, moments and loss weights as tensors; options, names and history as metadata.

use super::arguments::Source;
use super::data::Info;
use super::model::{Config, Model};
use super::optimiser::AdamW;
use super::train::{History, Options, Run, log_variance};
use super::weighting::Weights;
use anyhow::{Context, Result, bail, ensure};
use candle_core::{Device, Tensor};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::path::Path;

/// The metadata key; its value is a [`Header`] in JSON.
const KEY: &str = "gatewarp-multitask";
/// Counts changes of this file's layout.
const FORMAT: u32 = 1;

#[derive(Serialize, Deserialize)]
struct Header {
    format: u32,
    step: usize,
    config: Config,
    options: Options,
    info: Info,
    source: Source,
    history: History,
}

/// Writes the run, beside `path` first: a file that is there is replaced whole or not at all.
///
/// # Errors
/// The file that cannot be written.
pub fn save(path: &Path, run: &Run, source: &Source) -> Result<()> {
    let beside = path.with_extension("part");
    let write = || -> Result<()> {
        std::fs::write(&beside, encode(run, source)?)?;
        Ok(std::fs::rename(&beside, path)?)
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}

/// The bytes of a checkpoint.
///
/// # Errors
/// candle's.
pub fn encode(run: &Run, source: &Source) -> Result<Vec<u8>> {
    let header = Header {
        format: FORMAT,
        step: run.step(),
        config: run.model.config.clone(),
        options: run.options.clone(),
        info: run.info.clone(),
        source: source.clone(),
        history: run.history.clone(),
    };
    let metadata = HashMap::from([(KEY.to_owned(), serde_json::to_string(&header)?)]);
    let mut tensors: Vec<(String, Dtype, Vec<usize>, Vec<u8>)> = Vec::new();
    for moments in &run.optimiser.moments {
        let (name, shape) = (moments.parameter.name, moments.parameter.var.dims().to_vec());
        let values: Vec<f32> = moments.parameter.var.flatten_all()?.to_vec1()?;
        for (kind, data) in [("value", &values), ("first", &moments.first), ("second", &moments.second)] {
            let bytes = data.iter().flat_map(|x| x.to_le_bytes()).collect();
            tensors.push((format!("{name}.{kind}"), Dtype::F32, shape.clone(), bytes));
        }
        if !moments.frozen.is_empty() {
            let bytes = moments.frozen.iter().map(|&frozen| u8::from(frozen)).collect();
            tensors.push((format!("{name}.frozen"), Dtype::U8, shape, bytes));
        }
    }
    let windows: Vec<u8> = run.weights.windows.iter().flatten().flat_map(|x| x.to_le_bytes()).collect();
    tensors.push(("loss_windows".into(), Dtype::F64, vec![run.weights.windows.len(), 4], windows));
    let views = tensors.iter().map(|(name, dtype, shape, bytes)| {
        TensorView::new(*dtype, shape.clone(), bytes).map(|view| (name.as_str(), view))
    });
    let views = views.collect::<Result<Vec<_>, _>>()?;
    Ok(safetensors::serialize(views, Some(metadata))?)
}

/// Reads a run back; it goes on as if it had not stopped.
///
/// # Errors
/// What is wrong with the file, by its name.
pub fn load(path: &Path, device: &gatewarp::Device) -> Result<(Run, Source)> {
    let bytes = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    decode(&bytes, device).with_context(|| format!("{} is no checkpoint of this program", path.display()))
}

/// The run that [`encode`] wrote.
///
/// # Errors
/// What is wrong with the bytes.
pub fn decode(bytes: &[u8], device: &gatewarp::Device) -> Result<(Run, Source)> {
    let (_, metadata) = SafeTensors::read_metadata(bytes)?;
    let header = metadata.metadata().as_ref().and_then(|entries| entries.get(KEY));
    let header = header.with_context(|| format!("no `{KEY}` in its metadata"))?;
    let mut header: Header = serde_json::from_str(header)?;
    ensure!(header.format == FORMAT, "format {}, this program reads {FORMAT}", header.format);
    header.config.device = device.clone();
    let file = SafeTensors::deserialize(bytes)?;
    let given = |kind: &str| -> Result<HashMap<String, Tensor>> {
        let mut tensors = HashMap::new();
        for (name, view) in file.iter() {
            if let Some(name) = name.strip_suffix(kind) {
                let tensor = Tensor::from_vec(floats(&view)?, view.shape(), &Device::Cpu)?;
                tensors.insert(name.to_owned(), tensor);
            }
        }
        Ok(tensors)
    };
    let Header { config, options, info, source, history, step, .. } = header;
    let values = given(".value")?;
    let model = Model::new(options.variant, &config, &info, options.seed, Some(&values))?;
    let mut weights = Weights::new(options.weighting, info.tasks.len())?;
    if let Some(saved) = values.get("log_variance") {
        weights.log_variance.set(saved)?;
    }
    let windows = file.tensor("loss_windows")?;
    let windows: Vec<f64> = windows.data().as_chunks().0.iter().map(|&b| f64::from_le_bytes(b)).collect();
    ensure!(
        windows.len() == 4 * weights.windows.len(),
        "`loss_windows` is not of {} tasks",
        info.tasks.len()
    );
    for (window, saved) in weights.windows.iter_mut().zip(windows.as_chunks().0) {
        *window = *saved;
    }
    let mut optimiser = AdamW::new(model.parameters.clone(), vec![log_variance(&weights)]);
    optimiser.step = step;
    for moments in &mut optimiser.moments {
        let (name, shape) = (moments.parameter.name, moments.parameter.var.dims());
        let read = |kind: &str| {
            let view = file.tensor(&format!("{name}.{kind}"))?;
            ensure!(view.shape() == shape, "`{name}.{kind}` has shape {:?}, not {shape:?}", view.shape());
            Ok(view)
        };
        // A value smaller than its parameter would have been filled up.
        read("value")?;
        moments.first = floats(&read("first")?)?;
        moments.second = floats(&read("second")?)?;
        if file.tensor(&format!("{name}.frozen")).is_ok() {
            moments.frozen = read("frozen")?.data().iter().map(|&byte| byte != 0).collect();
        }
    }
    Ok((Run { options, info, model, optimiser, weights, history }, source))
}

fn floats(view: &TensorView<'_>) -> Result<Vec<f32>> {
    if view.dtype() != Dtype::F32 {
        bail!("a tensor of {:?} where f32 is expected", view.dtype());
    }
    Ok(view.data().as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect())
}
