//! Gradients through candle's tape against central differences, with views that candle did not copy.

use candle_core::{Device, Result, Tensor, Var};
use gatewarp::task_heads::Activation;
use gatewarp_candle::{Attention, TaskHeads, attention, task_heads};

fn random(shape: &[usize], seed: u32) -> Result<Var> {
    let count = shape.iter().product::<usize>() as u32;
    let data: Vec<f32> = (0..count).map(|i| ((i * 7919 + seed * 104_729) as f32 * 0.37).sin()).collect();
    Var::from_vec(data, shape, &Device::Cpu)
}

/// Compares the tape's gradient with `(f(x + h) − f(x − h)) / 2h` at every element.
fn check(var: &Var, f: &dyn Fn() -> Result<Tensor>) -> Result<()> {
    let grads = f()?.backward()?;
    let grad: Vec<f32> = grads.get(var).expect("a gradient").flatten_all()?.to_vec1()?;
    let start: Vec<f32> = var.flatten_all()?.to_vec1()?;
    let step = 1e-2;
    for i in 0..start.len() {
        let at = |delta: f32| -> Result<f64> {
            let mut moved = start.clone();
            moved[i] += delta;
            var.set(&Tensor::from_vec(moved, var.shape(), &Device::Cpu)?)?;
            Ok(f64::from(f()?.to_scalar::<f32>()?))
        };
        let slope = (at(step)? - at(-step)?) / (2.0 * f64::from(step));
        // f32 rounding of the sum over 2h, and the h² term of the difference.
        assert!(
            (slope - f64::from(grad[i])).abs() <= 4e-3 * (1.0 + slope.abs()),
            "element {i}: {slope} {}",
            grad[i]
        );
    }
    var.set(&Tensor::from_vec(start, var.shape(), &Device::Cpu)?)
}

#[test]
fn attention_gradients() -> Result<()> {
    // [B, S, H, D] storage: the operation reads the transposed views in place.
    let (q, k, v) = (random(&[2, 3, 4, 5], 1)?, random(&[2, 4, 2, 5], 2)?, random(&[2, 4, 2, 3], 3)?);
    let weight = random(&[2, 4, 3, 3], 4)?;
    let options = Attention { causal: true, kv_len: Some([4, 3].into()), ..Attention::default() };
    let f = || {
        let o = attention(&q.transpose(1, 2)?, &k.transpose(1, 2)?, &v.transpose(1, 2)?, &options)?;
        (o * weight.as_tensor())?.sum_all()
    };
    [&q, &k, &v].into_iter().try_for_each(|var| check(var, &f))
}

#[test]
fn task_heads_gradients() -> Result<()> {
    let (q, k, v) = (random(&[2, 4, 3, 5], 1)?, random(&[2, 2, 4, 5], 2)?, random(&[2, 2, 4, 3], 3)?);
    let (logits, weight) = (random(&[3, 4], 5)?, random(&[2, 4, 3, 3], 4)?);
    let gating = TaskHeads {
        attention: Attention::default(),
        tasks: [Some(2), Some(0)].into(),
        activation: Activation::top_k(2, true),
    };
    let f = || {
        let (y, report) = task_heads(&q, &k, &v, &logits, &gating)?;
        assert_eq!((report.computed, report.pairs), (4, 8));
        (y * weight.as_tensor())?.sum_all()
    };
    [&q, &k, &v, &logits].into_iter().try_for_each(|var| check(var, &f))
}

#[test]
fn a_graph_can_be_walked_backward_twice() -> Result<()> {
    let q = random(&[1, 2, 3, 4], 1)?;
    let loss = attention(&q, &q, &q, &Attention::default())?.sum_all()?;
    let first: Vec<f32> = loss.backward()?.get(&q).expect("a gradient").flatten_all()?.to_vec1()?;
    let second: Vec<f32> = loss.backward()?.get(&q).expect("a gradient").flatten_all()?.to_vec1()?;
    assert_eq!(first, second);
    Ok(())
}

#[test]
fn errors_name_the_argument() -> Result<()> {
    let (q, k) = (random(&[1, 3, 3, 4], 1)?, random(&[1, 2, 3, 4], 2)?);
    let message = attention(&q, &k, &k, &Attention::default()).unwrap_err().to_string();
    assert!(message.contains("`q`") && message.contains("3 heads"), "{message}");
    Ok(())
}
