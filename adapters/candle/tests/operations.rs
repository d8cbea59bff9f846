//! Gradients through candle's tape against central differences, with views that candle did not copy; and what the operations
//! promise besides.

use candle_core::{D, Device, Result, Tensor, Var};
use gatewarp::quantum_attention::{Mix, QuantumAttention as Layer, StateScore};
use gatewarp::statevec::{Axis, Circuit, Parameter, PauliSum};
use gatewarp::task_heads::Activation;
use gatewarp_candle::{
    Attention, AttentionRow, QuantumAttention, QuantumParameters, QuantumReadout, TaskHeads, TaskLosses,
    attention, attention_entropy, attention_weights, quantum_attention, quantum_outcomes, task_heads,
    task_losses,
};

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

#[test]
fn task_losses_gradients() -> Result<()> {
    // Task 1 has no sample; task 2 weighs negatively, as the slope of any function of the losses may.
    let (logits, weights) = (random(&[5, 4], 3)?, Var::new(&[0.7f32, 5.0, -1.3], &Device::Cpu)?);
    let options = TaskLosses {
        device: gatewarp::Device::cpu(),
        labels: [3, 0, 1, 1, 2].into(),
        tasks: [2, 0, 2, 0, 0].into(),
        count: 3,
    };
    let f = || (task_losses(&logits, &options)? * weights.as_tensor())?.sum_all();
    check(&logits, &f)?;
    check(&weights, &f)?;
    // The mean cross-entropy of each task's own rows, by candle.
    let losses: Vec<f32> = task_losses(&logits, &options)?.to_vec1()?;
    let log = logits.exp()?.sum_keepdim(1)?.log()?;
    let log_p: Vec<Vec<f32>> = logits.broadcast_sub(&log)?.to_vec2()?;
    let want = [-(log_p[1][0] + log_p[3][1] + log_p[4][2]) / 3.0, 0.0, -(log_p[0][3] + log_p[2][1]) / 2.0];
    assert_eq!(losses.len(), 3);
    assert!(losses.iter().zip(want).all(|(got, want)| (got - want).abs() < 1e-6), "{losses:?} {want:?}");
    Ok(())
}

/// Two qubits turned by the data and by a task's angles.
fn layer(score: StateScore, mix: Mix) -> QuantumAttention {
    let make = || -> gatewarp::Result<Layer> {
        let mut circuit = Circuit::new(2)?;
        circuit.angle_encoding(Axis::Y)?.rz(0, Parameter::Theta(0))?.cx(0, 1)?.rx(1, Parameter::Theta(1))?;
        Layer::new([&circuit; 3], score, mix, vec![PauliSum::z(0)?, PauliSum::z(1)?])
    };
    QuantumAttention::new(make().expect("a valid layer"), gatewarp::Device::cpu())
}

#[test]
fn quantum_attention_gradients() -> Result<()> {
    // Three features, of which the circuits read two; x is a transposed view.
    let x = random(&[2, 3, 4], 1)?;
    let (query, key, value) = (random(&[3, 2], 2)?, random(&[2], 3)?, random(&[3, 2], 5)?);
    let (tau, weight) = (Var::new(&[2.5f32], &Device::Cpu)?, random(&[2, 4, 2], 7)?);
    for score in [StateScore::ComplexDot, StateScore::Fidelity, StateScore::Gaussian, StateScore::Features] {
        for mix in [Mix::Values, Mix::Amplitudes] {
            let layer = layer(score, mix);
            let f = || {
                let parameters = QuantumParameters { thetas: [&query, &key, &value], tau: &tau };
                let x = x.transpose(1, 2)?;
                let y = quantum_attention(&x, parameters, &layer, &[2, 0], QuantumReadout::Exact)?;
                (y * weight.as_tensor())?.sum_all()
            };
            [&x, &query, &key, &value, &tau].into_iter().try_for_each(|var| check(var, &f))?;
        }
    }
    Ok(())
}

#[test]
fn two_factors_share_a_layer_without_mixing() -> Result<()> {
    let (x, theta) = (random(&[1, 4, 2], 1)?, random(&[2], 2)?);
    let layer = layer(StateScore::Fidelity, Mix::Values);
    let gradient = |taus: &[f32]| -> Result<f32> {
        let taus: Vec<Var> = taus.iter().map(|&tau| Var::new(&[tau], &Device::Cpu)).collect::<Result<_>>()?;
        let mut losses = Vec::new();
        for tau in &taus {
            let parameters = QuantumParameters { thetas: [&theta; 3], tau };
            losses.push(
                quantum_attention(&x, parameters, &layer, &[0], QuantumReadout::Exact)?.sqr()?.sum_all()?,
            );
        }
        Ok(losses[0].backward()?.get(&taus[0]).expect("a gradient").to_vec1::<f32>()?[0])
    };
    assert_eq!(gradient(&[2.0])?, gradient(&[2.0, 50.0])?);
    Ok(())
}

#[test]
fn shots_estimate_the_expectation_and_take_its_gradient() -> Result<()> {
    let (x, theta) = (random(&[2, 3, 2], 1)?, random(&[2], 2)?);
    let (tau, shots) = (Var::new(&[3f32], &Device::Cpu)?, 4096);
    let layer = layer(StateScore::Fidelity, Mix::Values);
    let parameters = QuantumParameters { thetas: [&theta; 3], tau: &tau };
    let read = |readout| quantum_attention(&x, parameters, &layer, &[0, 0], readout);
    let exact = read(QuantumReadout::Exact)?;
    let sampled = read(QuantumReadout::ShotsWithExactGradient { shots, seed: 5 })?;
    let error: Vec<f32> = (&exact - &sampled)?.flatten_all()?.to_vec1()?;
    // Six deviations of a mean of `shots` values of ±1.
    let bound = 6.0 / (shots as f32).sqrt();
    assert!(error.iter().all(|e| e.abs() <= bound) && error.iter().any(|&e| e != 0.0), "{error:?}");
    let gradient = |y: &Tensor| -> Result<Vec<f32>> {
        y.sum_all()?.backward()?.get(&theta).expect("a gradient").to_vec1()
    };
    assert_eq!(gradient(&exact)?, gradient(&sampled)?);

    // The shots behind the estimate: qubit 0 is the lowest bit of an outcome.
    let outcomes: Vec<Vec<u32>> = quantum_outcomes(&x, parameters, &layer, &[0, 0], shots, 5)?.to_vec2()?;
    let sampled: Vec<Vec<f32>> = sampled.reshape((6, 2))?.to_vec2()?;
    assert_eq!(outcomes.len(), 6);
    for (row, means) in outcomes.iter().zip(&sampled) {
        for (qubit, mean) in means.iter().enumerate() {
            let ones = row.iter().filter(|&&outcome| outcome >> qubit & 1 == 1).count();
            assert!((1.0 - 2.0 * ones as f32 / shots as f32 - mean).abs() < 1e-6);
        }
    }
    Ok(())
}

#[test]
fn quantum_errors_name_the_argument() -> Result<()> {
    let (x, theta, tau) = (random(&[1, 2, 2], 1)?, random(&[3, 2], 2)?, Var::new(&[1f32], &Device::Cpu)?);
    let layer = layer(StateScore::Fidelity, Mix::Values);
    let message = |x: &Tensor, tau: &Tensor, task| {
        let parameters = QuantumParameters { thetas: [&theta; 3], tau };
        quantum_attention(x, parameters, &layer, &[task], QuantumReadout::Exact).unwrap_err().to_string()
    };
    assert!(message(&x, &tau, 3).contains("task"), "{}", message(&x, &tau, 3));
    assert!(message(&x.narrow(2, 0, 1)?, &tau, 0).contains("`x`"));
    assert!(message(&x, &theta, 0).contains("`tau`"));
    assert!(message(&x, &Tensor::new(&[f32::NAN], &Device::Cpu)?, 0).contains("tau"));
    Ok(())
}

#[test]
fn attention_weights_sum_to_one_and_give_the_entropy() -> Result<()> {
    let (q, k) = (random(&[2, 5, 4, 6], 1)?, random(&[2, 7, 2, 6], 2)?);
    let (q, k) = (q.transpose(1, 2)?, k.transpose(1, 2)?);
    let options = Attention { kv_len: Some([7, 3].into()), scale: Some(1.5), ..Attention::default() };
    let mut rows = Vec::new();
    for sample in 0..2 {
        for head in 0..4 {
            rows.extend((0..5).map(|query| AttentionRow { sample, head, query }));
        }
    }
    let weights: Vec<Vec<f32>> = attention_weights(&q, &k, &options, &rows)?.to_vec2()?;
    let entropy: Vec<f32> = attention_entropy(&q, &k, &options)?.flatten_all()?.to_vec1()?;
    assert_eq!((weights.len(), entropy.len()), (40, 40));
    for ((row, weights), entropy) in rows.iter().zip(&weights).zip(&entropy) {
        assert_eq!(weights.len(), 7);
        assert!((weights.iter().sum::<f32>() - 1.0).abs() < 1e-6, "{row:?}: {weights:?}");
        assert!(weights.iter().all(|&p| p >= 0.0));
        assert!(row.sample == 0 || weights[3..].iter().all(|&p| p == 0.0), "{row:?} sees padding");
        let want: f32 = weights.iter().filter(|&&p| p > 0.0).map(|p| -p * p.ln()).sum();
        assert!((entropy - want).abs() < 1e-5, "{row:?}: {entropy} {want}");
    }
    // The weights are those that make the output.
    let o = attention(&q, &k, &k, &options)?.narrow(1, 3, 1)?.narrow(0, 1, 1)?.flatten_to(D::Minus2)?;
    let p = Tensor::new(weights[35..].to_vec(), &Device::Cpu)?;
    let want = p.matmul(&k.get(1)?.get(1)?.contiguous()?)?;
    assert!((o - want)?.abs()?.max_all()?.to_scalar::<f32>()? < 1e-5);
    let outside = [AttentionRow { sample: 2, head: 0, query: 0 }];
    assert!(attention_weights(&q, &k, &options, &outside).unwrap_err().to_string().contains("rows"));
    Ok(())
}
