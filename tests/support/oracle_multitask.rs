//! Losses and metrics of mixed tasks in f64, a loop per task. Shares nothing with `src/`.

/// A row that counts: its task, its values and what is wanted of them.
#[derive(Clone, Debug)]
pub struct Row<'a> {
    pub task: usize,
    pub values: &'a [f32],
    pub label: usize,
    pub targets: &'a [f32],
}

/// A row's loss, its gradient with unit weight, and the magnitudes that were added up for each.
#[derive(Clone, Debug)]
pub struct RowLoss {
    pub loss: f64,
    pub loss_terms: f64,
    pub gradient: Vec<f64>,
    pub gradient_terms: Vec<f64>,
}

/// −(1−ε)·log p_y − (ε/C)·Σ_c log p_c.
pub fn cross_entropy(row: &Row<'_>, smoothing: f64) -> RowLoss {
    let z: Vec<f64> = row.values.iter().map(|&z| z.into()).collect();
    let classes = z.len() as f64;
    let max = z.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let total: f64 = z.iter().map(|z| (z - max).exp()).sum();
    let log_p: Vec<f64> = z.iter().map(|z| z - max - total.ln()).collect();
    let wanted = |c: usize| (if c == row.label { 1.0 - smoothing } else { 0.0 }) + smoothing / classes;
    let size = z.iter().fold(0.0f64, |size, z| size.max(z.abs()));
    let mut out =
        RowLoss { loss: 0.0, loss_terms: 1.0 + size, gradient: Vec::new(), gradient_terms: Vec::new() };
    for (c, log_p) in log_p.iter().enumerate() {
        let wanted = wanted(c);
        if wanted > 0.0 {
            out.loss -= wanted * log_p;
            out.loss_terms += wanted * log_p.abs();
        }
        out.gradient.push(log_p.exp() - wanted);
        out.gradient_terms.push(log_p.exp() * (1.0 + size) + wanted);
    }
    out
}

/// (1/D)·Σ_d (x_d − y_d)².
pub fn squared_error(row: &Row<'_>) -> RowLoss {
    let width = row.values.len() as f64;
    let errors: Vec<f64> =
        row.values.iter().zip(row.targets).map(|(&x, &y)| f64::from(x) - f64::from(y)).collect();
    let sizes = row.values.iter().zip(row.targets).map(|(&x, &y)| f64::from(x.abs()) + f64::from(y.abs()));
    let loss = errors.iter().map(|e| e * e).sum::<f64>() / width;
    RowLoss {
        loss,
        loss_terms: sizes.clone().map(|s| s * s).sum::<f64>() / width,
        gradient: errors.iter().map(|e| 2.0 * e / width).collect(),
        gradient_terms: sizes.map(|s| 2.0 * s / width).collect(),
    }
}

/// Precision, recall and F1 of one class of one task, from the predictions and labels of its rows.
pub fn class_scores(predicted: &[usize], labels: &[usize], class: usize) -> [f64; 3] {
    let count = |test: &dyn Fn(usize) -> bool| (0..labels.len()).filter(|&i| test(i)).count() as f64;
    let right = count(&|i| predicted[i] == class && labels[i] == class);
    let predictions = count(&|i| predicted[i] == class);
    let labelled = count(&|i| labels[i] == class);
    let over = |x: f64, y: f64| if y == 0.0 { 0.0 } else { x / y };
    let (precision, recall) = (over(right, predictions), over(right, labelled));
    [precision, recall, over(2.0 * precision * recall, precision + recall)]
}

/// First of the largest.
pub fn prediction(values: &[f32]) -> usize {
    (0..values.len()).rev().max_by(|&a, &b| values[a].total_cmp(&values[b])).unwrap_or(0)
}
