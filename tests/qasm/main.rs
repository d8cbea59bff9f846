//! OpenQASM in and out: a corpus with hand-written meanings, errors with their places, round trips, hostile text.

#[path = "../statevec/case.rs"]
#[allow(dead_code)]
mod case;
mod corpus;
mod errors;
mod expected;
mod export;
mod hostile;
#[path = "../support/mod.rs"]
mod support;
