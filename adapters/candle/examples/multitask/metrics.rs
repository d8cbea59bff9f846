//! Accuracy and macro F1 per task, and mean ± deviation over seeds.

use serde::Serialize;

/// Counts of one task's predictions.
#[derive(Clone, Debug, PartialEq)]
pub struct Confusion {
    classes: usize,
    /// `[truth][prediction]`
    counts: Vec<usize>,
}

impl Confusion {
    pub fn new(classes: usize) -> Self {
        Self { classes, counts: vec![0; classes * classes] }
    }

    pub fn add(&mut self, truth: usize, prediction: usize) {
        self.counts[truth * self.classes + prediction] += 1;
    }

    pub fn total(&self) -> usize {
        self.counts.iter().sum()
    }

    /// Share of right predictions; `None` for a task without samples.
    pub fn accuracy(&self) -> Option<f64> {
        let right: usize = (0..self.classes).map(|c| self.counts[c * self.classes + c]).sum();
        (self.total() > 0).then(|| right as f64 / self.total() as f64)
    }

    /// Mean F1 of the classes that occur, in truth or prediction; `None` for a task without samples.
    pub fn macro_f1(&self) -> Option<f64> {
        let f1 = |class: usize| {
            let right = self.counts[class * self.classes + class];
            let truths: usize = self.counts[class * self.classes..][..self.classes].iter().sum();
            let predictions: usize =
                (0..self.classes).map(|truth| self.counts[truth * self.classes + class]).sum();
            (truths + predictions > 0).then(|| 2.0 * right as f64 / (truths + predictions) as f64)
        };
        let scores: Vec<f64> = (0..self.classes).filter_map(f1).collect();
        (!scores.is_empty()).then(|| scores.iter().sum::<f64>() / scores.len() as f64)
    }
}

/// Mean and sample deviation.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Summary {
    pub mean: f64,
    pub deviation: f64,
    /// Number of values.
    pub count: usize,
}

impl Summary {
    /// Of the values that are there; NaN if none is.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Self {
        let values: Vec<f64> = values.into_iter().collect();
        let count = values.len() as f64;
        let mean = values.iter().sum::<f64>() / count;
        let squares: f64 = values.iter().map(|v| (v - mean).powi(2)).sum();
        let deviation = if values.len() > 1 { (squares / (count - 1.0)).sqrt() } else { 0.0 };
        Self { mean, deviation, count: values.len() }
    }

    /// Deviation of the mean.
    pub fn error(&self) -> f64 {
        self.deviation / (self.count.max(1) as f64).sqrt()
    }
}

impl std::fmt::Display for Summary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let digits = f.precision().unwrap_or(3);
        if self.count == 0 {
            return f.write_str("–");
        }
        write!(f, "{:.digits$} ± {:.digits$}", self.mean, self.deviation)
    }
}
