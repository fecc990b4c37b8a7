//! The scheduler, the real one, with caches of its own; it can crash between any two writes.
//!
//! Start at [`Dispatcher`].

use std::collections::VecDeque;

use base::{Clock, ManualClock, Rng};
use scheduler::{Options, Scheduler, Step};

use crate::feed::Feeds;
use crate::manager::write;
use crate::server::Server;

/// The scheduler in a process of its own.
pub struct Dispatcher {
    scheduler: Scheduler,
    /// What it reads.
    pub feeds: Feeds,
    work: VecDeque<Step>,
}

impl Dispatcher {
    /// Starts with empty caches.
    pub fn start() -> Dispatcher {
        let feeds = Feeds::start();
        let scheduler = Scheduler::new(Options::default(), &feeds.caches, || {});
        Dispatcher { scheduler, feeds, work: VecDeque::new() }
    }

    /// Decides when nothing is under way, and does some of it. Returns how many writes were made.
    pub fn step(&mut self, server: &Server, clock: &ManualClock, rng: &mut Rng, hurry: bool) -> usize {
        if self.work.is_empty() {
            self.work = self.scheduler.turn(clock.now(), clock.monotonic()).into();
        }
        let budget = if hurry { usize::MAX } else { rng.below(6) as usize };
        let mut made = 0;
        for _ in 0..budget {
            let Some(step) = self.work.pop_front() else { break };
            let mut result = Ok(());
            for each in &step.writes {
                made += 1;
                if let Err(failure) = write(server, each) {
                    result = Err(failure);
                    break;
                }
            }
            self.scheduler.done(&step, result.as_ref().map(|()| ()), clock.monotonic());
        }
        made
    }

    /// Whether nothing is to be done before time passes.
    pub fn is_idle(&self, clock: &ManualClock) -> bool {
        self.work.is_empty() && self.scheduler.is_idle(clock.monotonic())
    }
}
