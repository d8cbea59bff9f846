//! The parts of the example.

pub mod add_task;
pub mod arguments;
pub mod checkpoint;
pub mod compare;
pub mod data;
pub mod inspect;
pub mod json;
pub mod metrics;
pub mod model;
pub mod modes;
pub mod optimiser;
pub mod parameters;
pub mod phase;
pub mod predict;
pub mod records;
pub mod report;
pub mod sampler;
pub mod stream;
pub mod synthetic;
pub mod train;
pub mod weighting;
