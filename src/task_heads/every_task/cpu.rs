//! [`super::share`] on the CPU.

use super::EveryTaskSaved;
use crate::error::{Error, Result};
use crate::host::{elements, elements_mut};
use crate::task_heads::cpu::{PARALLEL_ELEMENTS, RowsMut, element_of, row_of};
use crate::tensor::{TensorMut, TensorRef};
use rayon::prelude::*;

pub(super) fn used(gates: &TensorRef<'_>, used: &mut TensorMut<'_>) -> Result<()> {
    let &[_, tasks, heads] = gates.shape() else { return Ok(()) };
    let (gates, used) = (elements::<f32>(gates)?, elements_mut::<f32>(used)?);
    for (pair, used) in used.iter_mut().enumerate() {
        let (sample, head) = (pair / heads, pair % heads);
        let own = (0..tasks).map(|task| gates[(sample * tasks + task) * heads + head]);
        let is_nan = own.clone().any(f32::is_nan);
        let is_active = own.clone().any(|gate| gate != 0.0 && !gate.is_nan());
        *used = if is_active {
            1.0
        } else if is_nan {
            f32::NAN
        } else {
            0.0
        };
    }
    Ok(())
}

pub(super) fn spread(
    [o, lse]: [&TensorRef<'_>; 2],
    gates: &TensorRef<'_>,
    y: &mut TensorMut<'_>,
    zeroed: bool,
) -> Result<()> {
    let &[_, tasks, heads, rows, columns] = y.as_ref().shape() else { return Ok(()) };
    let gates = elements::<f32>(gates)?;
    let y = RowsMut::<f32>::new(y)?;
    gates.par_iter().with_min_len(PARALLEL_ELEMENTS.div_ceil(rows * columns)).enumerate().for_each(
        |(at, &gate)| {
            let (sample, task, head) = (at / heads / tasks, at / heads % tasks, at % heads);
            let place = [sample, task, head];
            if gate == 0.0 || gate.is_nan() {
                // Without a look at o, which may not have been computed.
                if !zeroed || gate.is_nan() {
                    y.each_row(&place, 0..rows, |_, to| to.fill(if gate.is_nan() { f32::NAN } else { 0.0 }));
                }
                return;
            }
            y.each_row(&place, 0..rows, |row, to| {
                // As attention scales a row without keys: 0, whatever the gate's sign.
                if *element_of(lse, &[sample, head, row]) == f32::NEG_INFINITY {
                    return to.fill(0.0);
                }
                for (to, o) in to.iter_mut().zip(row_of::<f32>(o, &[sample, head, row])) {
                    *to = o * gate;
                }
            });
        },
    );
    Ok(())
}

pub(super) fn gather(
    saved: &EveryTaskSaved<'_>,
    grad_y: &TensorRef<'_>,
    grad_o: &mut TensorMut<'_>,
) -> Result<()> {
    let &[batch, tasks, heads, rows, columns] = grad_y.shape() else { return Ok(()) };
    let gates = elements::<f32>(&saved.gates)?;
    let listed = elements::<u32>(&saved.counts)?[0] as usize;
    // The lists are the caller's to keep.
    let listed = elements::<u32>(&saved.order)?.get(..listed).ok_or_else(|| {
        let reason = format!("and `counts` are not a list of used pairs: {listed} of {}", batch * heads);
        Error::argument("task_heads", "order", reason)
    })?;
    let mut is_listed = vec![false; batch * heads];
    for &pair in listed {
        if let Some(flag) = is_listed.get_mut(pair as usize) {
            *flag = true;
        }
    }
    let size = rows * columns;
    let least = PARALLEL_ELEMENTS.div_ceil(size);
    let pairs = elements_mut::<f32>(grad_o)?.par_chunks_exact_mut(size).zip(is_listed).enumerate();
    pairs.with_min_len(least).for_each(|(pair, (to, is_listed))| {
        if !is_listed {
            return;
        }
        let (sample, head) = (pair / heads, pair % heads);
        for (row, to) in to.chunks_exact_mut(columns).enumerate() {
            to.fill(0.0);
            for task in 0..tasks {
                let gate = gates[(sample * tasks + task) * heads + head];
                if gate == 0.0 {
                    continue;
                }
                for (to, dy) in to.iter_mut().zip(row_of::<f32>(grad_y, &[sample, task, head, row])) {
                    *to = gate.mul_add(*dy, *to);
                }
            }
        }
    });
    Ok(())
}
