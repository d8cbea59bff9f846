//! What the test suites share: oracles, tolerances, comparison, guarded tensors, and the list of devices.
#![allow(dead_code)] // Each test binary compiles this module and uses its own part of it.

pub mod attention_case;
pub mod compare;
pub mod devices;
pub mod elements;
pub mod guarded;
pub mod oracle;
pub mod oracle_attention;
pub mod oracle_multitask;
pub mod oracle_statevec;
pub mod oracle_task_heads;
pub mod philox;
pub mod property;
pub mod random;
pub mod tolerance;
