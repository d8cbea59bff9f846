//! Grouping steps so that each group needs few directions at hand: sweeps of registers, and passes of tiles.

use super::lower::Step;
use super::subspace::Subspace;

/// Steps that run together: every direction of every step lies in `directions` (with the forced ones).
#[derive(Clone, Debug)]
pub(crate) struct Group {
    /// Independent modulo the forced directions; the first step's own direction first.
    pub(crate) directions: Vec<u32>,
    /// Indices of steps, in an order that gives the circuit's result.
    pub(crate) steps: Vec<usize>,
}

/// Unscheduled steps looked at when choosing the next one: keeps long circuits linear in time.
const WINDOW: usize = 96;

/// Cuts `order` (indices into `steps`, a valid execution order) into groups of at most `capacity` directions beyond `forced`.
///
/// Closure-greedy: a group grows by the ready step whose directions release the most steps per new direction; the plain
/// first-fit cut is taken instead where it needs fewer groups.
pub(crate) fn group(steps: &[Step], order: &[usize], forced: &[u32], capacity: usize) -> Vec<Group> {
    let greedy = Scheduler::new(steps, order, forced, capacity).run(true);
    let first_fit = Scheduler::new(steps, order, forced, capacity).run(false);
    if first_fit.len() < greedy.len() { first_fit } else { greedy }
}

struct Scheduler<'a> {
    steps: &'a [Step],
    /// Not yet scheduled, in execution order.
    pending: Vec<usize>,
    forced: Subspace,
    capacity: usize,
}

/// A group being filled.
struct Open {
    space: Subspace,
    group: Group,
}

impl<'a> Scheduler<'a> {
    fn new(steps: &'a [Step], order: &[usize], forced: &[u32], capacity: usize) -> Self {
        Self { steps, pending: order.to_vec(), forced: Subspace::of(forced.iter().copied()), capacity }
    }

    fn run(mut self, look_ahead: bool) -> Vec<Group> {
        let mut groups = Vec::new();
        while !self.pending.is_empty() {
            let mut open = Open {
                space: self.forced.clone(),
                group: Group { directions: Vec::new(), steps: Vec::new() },
            };
            self.take_closure(&mut open);
            while let Some(directions) = self.next(&open, look_ahead) {
                for direction in directions {
                    if open.space.insert(direction) {
                        open.group.directions.push(direction);
                    }
                }
                self.take_closure(&mut open);
            }
            // A step too wide for the capacity (the public limits exclude it) still runs, alone.
            if open.group.steps.is_empty() {
                let step = self.pending.remove(0);
                open.group.directions = self.steps[step].directions.clone();
                open.group.steps.push(step);
            }
            groups.push(open.group);
        }
        groups
    }

    /// Positions in `pending` that may run now and lie in `space`, in order.
    fn closure(&self, space: &Subspace) -> Vec<usize> {
        let mut taken = Vec::new();
        let mut held: Vec<usize> = Vec::new();
        for (at, &step) in self.pending.iter().enumerate().take(WINDOW) {
            let it = &self.steps[step];
            let inside = it.directions.iter().all(|&direction| space.contains(direction));
            if inside && held.iter().all(|&earlier| self.steps[earlier].commutes(it)) {
                taken.push(at);
            } else {
                held.push(step);
            }
        }
        taken
    }

    fn take_closure(&mut self, open: &mut Open) {
        loop {
            let taken = self.closure(&open.space);
            if taken.is_empty() {
                return;
            }
            open.group.steps.extend(taken.iter().map(|&at| self.pending[at]));
            let mut taken = taken.into_iter().peekable();
            let mut at = 0;
            self.pending.retain(|_| {
                at += 1;
                taken.next_if_eq(&(at - 1)).is_none()
            });
        }
    }

    /// Directions of the best ready step that still fits, `None` if none does.
    fn next(&self, open: &Open, look_ahead: bool) -> Option<Vec<u32>> {
        let mut best: Option<(usize, usize, Vec<u32>)> = None; // released, new dimensions, directions
        let mut tried: Vec<&[u32]> = Vec::new();
        let mut held: Vec<usize> = Vec::new();
        for &step in self.pending.iter().take(WINDOW) {
            let it = &self.steps[step];
            let ready = held.iter().all(|&earlier| self.steps[earlier].commutes(it));
            held.push(step);
            if !ready || tried.contains(&it.directions.as_slice()) {
                continue;
            }
            tried.push(&it.directions);
            let mut space = open.space.clone();
            let new = it.directions.iter().filter(|&&direction| space.insert(direction)).count();
            if new == 0 || open.group.directions.len() + new > self.capacity {
                continue;
            }
            if !look_ahead {
                return Some(it.directions.clone());
            }
            let released = self.closure(&space);
            let gain =
                released.iter().filter(|&&at| !self.steps[self.pending[at]].directions.is_empty()).count();
            // gain / new is larger: compared without division.
            if best.as_ref().is_none_or(|(g, n, _)| gain * n > g * new) {
                best = Some((gain, new, it.directions.clone()));
            }
        }
        best.map(|(_, _, directions)| directions)
    }
}
