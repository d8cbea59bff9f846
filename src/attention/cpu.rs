//! CPU.
use super::{Backward, Forward, Problem};
use crate::error::Result;
pub(super) fn forward(_problem: &Problem<'_>, _call: &mut Forward<'_>) -> Result<()> {
    unimplemented!()
}
pub(super) fn backward(_problem: &Problem<'_>, _call: &mut Backward<'_>) -> Result<()> {
    unimplemented!()
}
