//! The one launch path: pipelines made once per manifest row, every launch checked against its row, launches batched.

use super::{Binding, Core, buffer, launch_error, lock};
use crate::device::Backend;
use crate::error::{Error, Result};
use crate::manifest::{Access, WGSL_ENTRY_POINT, WgslKernel};
use std::collections::HashMap;
use std::num::NonZeroU64;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, OnceLock};

/// Launches recorded before they are submitted: submitting costs tens of microseconds, whatever is in it.
const BATCH_LAUNCHES: usize = 16;

/// Parameter bytes of one batch. WebGPU guarantees uniform bindings of 16 KiB.
const BATCH_PARAMS: usize = 16 << 10;

/// A compiled kernel.
struct Pipeline {
    pipeline: wgpu::ComputePipeline,
    layout: wgpu::BindGroupLayout,
    /// What a `None` binds, one per binding: no two bindings may share a writable buffer.
    dummies: Vec<wgpu::Buffer>,
}

/// Compiled kernels by the address of their manifest row, failures included.
#[derive(Default)]
pub(super) struct Pipelines(Mutex<HashMap<usize, Slot>>);

type Slot = Arc<OnceLock<Result<Pipeline>>>;

/// Launches recorded and not yet submitted.
pub(super) struct Batch {
    encoder: Option<wgpu::CommandEncoder>,
    /// Entries of the recorded launches, to name them in an error.
    kernels: Vec<&'static str>,
    /// Parameters of the recorded launches, copied to `uniforms` in one write when the batch is submitted. The write is
    /// ordered on the queue, so one buffer serves all batches and a launch allocates nothing.
    params: Vec<u8>,
    uniforms: wgpu::Buffer,
}

impl Batch {
    pub(super) fn new(device: &wgpu::Device) -> Self {
        let uniforms = device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("params"),
            size: BATCH_PARAMS as u64,
            usage: wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        });
        Self { encoder: None, kernels: Vec::with_capacity(BATCH_LAUNCHES), params: Vec::new(), uniforms }
    }
}

impl Core {
    pub(super) fn launch(
        &self,
        kernel: &'static WgslKernel,
        bindings: &[Option<Binding<'_>>],
        params: &[u8],
        workgroups: [u32; 3],
    ) -> Result<()> {
        self.check_lost()?;
        self.check_arguments(kernel, bindings, params, workgroups)?;
        if workgroups.contains(&0) {
            return Ok(());
        }
        let slot = lock(&self.pipelines.0).entry(std::ptr::from_ref(kernel) as usize).or_default().clone();
        // Compiled outside the map's lock: other kernels go on meanwhile, a second caller of this one waits.
        let pipeline = match slot.get_or_init(|| self.compile(kernel)) {
            Ok(pipeline) => pipeline,
            Err(error) => return Err(error.clone()),
        };

        let mut batch = lock(&self.batch);
        let align = self.limits.min_uniform_buffer_offset_alignment.max(4) as usize;
        let offset = batch.params.len().next_multiple_of(align);
        let offset = if offset + params.len() > BATCH_PARAMS || batch.kernels.len() >= BATCH_LAUNCHES {
            self.submit_batch(&mut batch, |_| {})?;
            0
        } else {
            offset
        };
        let Batch { encoder, kernels, params: recorded, uniforms } = &mut *batch;
        recorded.resize(offset, 0);
        recorded.extend_from_slice(params);
        let entries = self.entries(pipeline, bindings, uniforms, offset as u64, params.len() as u64);
        // Errors of recording are deferred to `finish`; only the bind group reports here.
        let (group, error) = self.scoped(|| {
            self.device.create_bind_group(&wgpu::BindGroupDescriptor {
                label: Some(kernel.entry),
                layout: &pipeline.layout,
                entries: &entries,
            })
        });
        if let Some(error) = error {
            return Err(launch_error(kernel.entry, &error));
        }
        kernels.push(kernel.entry);
        let encoder = encoder.get_or_insert_with(|| self.device.create_command_encoder(&Default::default()));
        let descriptor = wgpu::ComputePassDescriptor { label: Some(kernel.entry), timestamp_writes: None };
        let mut pass = encoder.begin_compute_pass(&descriptor);
        pass.set_pipeline(&pipeline.pipeline);
        pass.set_bind_group(0, &group, &[]);
        pass.dispatch_workgroups(workgroups[0], workgroups[1], workgroups[2]);
        drop(pass);
        self.launches.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn entries<'a>(
        &self,
        pipeline: &'a Pipeline,
        bindings: &[Option<Binding<'a>>],
        uniforms: &'a wgpu::Buffer,
        offset: u64,
        params: u64,
    ) -> Vec<wgpu::BindGroupEntry<'a>> {
        let storage = bindings.iter().zip(&pipeline.dummies).enumerate().map(|(i, (bound, dummy))| {
            let resource = match bound {
                None => dummy.as_entire_binding(),
                Some(Binding { buffer, part: None }) => buffer.raw().as_entire_binding(),
                Some(Binding { buffer, part: Some((offset, bytes)) }) => {
                    wgpu::BindingResource::Buffer(wgpu::BufferBinding {
                        buffer: buffer.raw(),
                        offset: *offset,
                        size: NonZeroU64::new(*bytes),
                    })
                }
            };
            wgpu::BindGroupEntry { binding: i as u32, resource }
        });
        let uniform = NonZeroU64::new(params).map(|size| wgpu::BindGroupEntry {
            binding: bindings.len() as u32,
            resource: wgpu::BindingResource::Buffer(wgpu::BufferBinding {
                buffer: uniforms,
                offset,
                size: Some(size),
            }),
        });
        storage.chain(uniform).collect()
    }

    /// Everything that wgpu would panic about, or that it does not look at.
    fn check_arguments(
        &self,
        kernel: &WgslKernel,
        bindings: &[Option<Binding<'_>>],
        params: &[u8],
        workgroups: [u32; 3],
    ) -> Result<()> {
        let wrong = |code: String| Error::Launch { kernel: kernel.entry.into(), code };
        if bindings.len() != kernel.bindings.len() {
            return Err(wrong(format!("{} buffers for {} bindings", bindings.len(), kernel.bindings.len())));
        }
        if params.len() != kernel.params {
            return Err(wrong(format!("{} parameter bytes, the row says {}", params.len(), kernel.params)));
        }
        let most = self.limits.max_compute_workgroups_per_dimension;
        if let Some(&got) = workgroups.iter().find(|&&count| count > most) {
            return Err(limit(kernel, "workgroups per dimension", most, got));
        }
        let bound = bindings.iter().zip(kernel.bindings);
        for (i, (binding, (name, access))) in bound.enumerate() {
            let Some(binding) = binding else { continue };
            if !binding.buffer.is_on(self) {
                return Err(wrong(format!("`{name}` is on another device")));
            }
            let (start, end) = binding.range();
            let align = u64::from(self.limits.min_storage_buffer_offset_alignment);
            let whole = start.is_multiple_of(align) && (end - start).is_multiple_of(4);
            if !whole || start >= end || end > binding.buffer.raw().size() {
                let (bytes, all) = (end - start, binding.buffer.raw().size());
                return Err(wrong(format!("`{name}` is {bytes} bytes from {start} of a buffer of {all}")));
            }
            if end - start > self.limits.max_storage_buffer_binding_size {
                let most = self.limits.max_storage_buffer_binding_size;
                return Err(limit(kernel, "bytes of one buffer", most, end - start));
            }
            // WebGPU: what a dispatch writes it neither reads from the same buffer, nor writes through two bindings.
            for (other, (other_name, other_access)) in bindings.iter().zip(kernel.bindings).take(i) {
                let Some(other) = other.filter(|other| other.buffer.id() == binding.buffer.id()) else {
                    continue;
                };
                let (other_start, other_end) = other.range();
                let apart = end <= other_start || other_end <= start;
                let both_written = *access == Access::ReadWrite && *other_access == Access::ReadWrite;
                let written = *access == Access::ReadWrite || *other_access == Access::ReadWrite;
                if written && !(both_written && apart) {
                    return Err(wrong(format!(
                        "`{name}` and `{other_name}` are one buffer, and it is written"
                    )));
                }
            }
        }
        Ok(())
    }

    fn compile(&self, kernel: &'static WgslKernel) -> Result<Pipeline> {
        let limits = &self.limits;
        let [x, y, z] = kernel.workgroup;
        let needs = [
            ("storage buffers", limits.max_storage_buffers_per_shader_stage, kernel.bindings.len() as u32),
            ("parameter bytes", BATCH_PARAMS as u32, kernel.params as u32),
            // wgpu-core does not check this one.
            ("workgroup memory in bytes", limits.max_compute_workgroup_storage_size, kernel.workgroup_bytes),
            ("invocations per workgroup", limits.max_compute_invocations_per_workgroup, x * y * z),
            ("workgroup width", limits.max_compute_workgroup_size_x, x),
            ("workgroup height", limits.max_compute_workgroup_size_y, y),
            ("workgroup depth", limits.max_compute_workgroup_size_z, z),
        ];
        if let Some(&(what, most, got)) = needs.iter().find(|(_, most, got)| got > most) {
            return Err(limit(kernel, what, most, got));
        }
        let (pipeline, error) = self.scoped(|| self.create_pipeline(kernel));
        match error {
            None => Ok(pipeline),
            Some(error) => Err(Error::Compile {
                kernel: kernel.entry.into(),
                arch: format!("WGSL on {}", self.name),
                log: error.to_string(),
            }),
        }
    }

    fn create_pipeline(&self, kernel: &'static WgslKernel) -> Pipeline {
        let device = &self.device;
        let entry = |binding: usize, ty, min: u64| wgpu::BindGroupLayoutEntry {
            binding: binding as u32,
            visibility: wgpu::ShaderStages::COMPUTE,
            ty: wgpu::BindingType::Buffer {
                ty,
                has_dynamic_offset: false,
                min_binding_size: NonZeroU64::new(min),
            },
            count: None,
        };
        // Explicit, because a layout derived from the shader leaves out bindings it does not use.
        let mut entries: Vec<_> = (kernel.bindings.iter().enumerate())
            .map(|(i, (_, access))| {
                entry(i, wgpu::BufferBindingType::Storage { read_only: *access == Access::Read }, 0)
            })
            .collect();
        if kernel.params > 0 {
            entries.push(entry(
                kernel.bindings.len(),
                wgpu::BufferBindingType::Uniform,
                kernel.params as u64,
            ));
        }
        let layout = device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor {
            label: Some(kernel.entry),
            entries: &entries,
        });
        let pipeline_layout = device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
            label: Some(kernel.entry),
            bind_group_layouts: &[Some(&layout)],
            immediate_size: 0,
        });
        let module = device.create_shader_module(wgpu::ShaderModuleDescriptor {
            label: Some(kernel.file),
            source: wgpu::ShaderSource::Wgsl(kernel.text().into()),
        });
        let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: Some(kernel.entry),
            layout: Some(&pipeline_layout),
            module: &module,
            entry_point: Some(WGSL_ENTRY_POINT),
            compilation_options: Default::default(),
            cache: None,
        });
        let dummy = |_: &_| {
            self.create_buffer(&wgpu::BufferDescriptor {
                label: Some("unused binding"),
                size: buffer::MIN_BYTES,
                usage: buffer::USAGE,
                mapped_at_creation: false,
            })
        };
        Pipeline { pipeline, layout, dummies: kernel.bindings.iter().map(dummy).collect() }
    }

    /// Submits what is recorded.
    pub(super) fn flush(&self) -> Result<()> {
        self.check_lost()?;
        let mut batch = lock(&self.batch);
        if batch.encoder.is_none() {
            return Ok(());
        }
        self.submit_batch(&mut batch, |_| {}).map(drop)
    }

    /// Submits what is recorded, and `more` after it.
    pub(super) fn submit(
        &self,
        more: impl FnOnce(&mut wgpu::CommandEncoder),
    ) -> Result<wgpu::SubmissionIndex> {
        self.submit_batch(&mut lock(&self.batch), more)
    }

    fn submit_batch(
        &self,
        batch: &mut Batch,
        more: impl FnOnce(&mut wgpu::CommandEncoder),
    ) -> Result<wgpu::SubmissionIndex> {
        let (submission, error) = self.scoped(|| {
            let mut encoder = batch
                .encoder
                .take()
                .unwrap_or_else(|| self.device.create_command_encoder(&Default::default()));
            more(&mut encoder);
            if !batch.params.is_empty() {
                batch.params.resize(batch.params.len().next_multiple_of(4), 0);
                self.queue.write_buffer(&batch.uniforms, 0, &batch.params);
            }
            self.queue.submit([encoder.finish()])
        });
        let kernels = batch.kernels.join(", ");
        batch.params.clear();
        batch.kernels.clear();
        self.check_lost()?;
        match error {
            None => Ok(submission),
            Some(error) => Err(launch_error(&kernels, &error)),
        }
    }
}

fn limit(kernel: &WgslKernel, what: &'static str, limit: impl ToString, got: impl ToString) -> Error {
    Error::Unsupported {
        op: kernel.entry,
        backend: Backend::Wgpu,
        what,
        limit: limit.to_string(),
        got: got.to_string(),
    }
}
