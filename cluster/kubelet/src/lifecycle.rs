//! The states of a pod on its node, and all moves between them.
//!
//! Start at [`Lifecycle::next`], the one function that moves. A restarted kubelet begins every pod at `Preparing` again
//! and is carried by what it sees: adoption is the same path as creation.
//!
//! Not here: what to do in a state (`step`).

/// Where a pod is on its way through this node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lifecycle {
    /// It has no sandbox or volumes yet, or lost its sandbox. Nothing of it runs.
    #[default]
    Preparing,
    /// The sandbox is ready; init containers run one after the other.
    Initializing,
    /// Every init container did its part; the app containers are kept as the restart policy wants.
    Running,
    /// It was asked to stop, or is over its deadline: containers get their grace.
    Terminating,
    /// Nothing of it runs or will run again. The object stays until somebody deletes it.
    Ended,
    /// It was deleted and nothing of it is left here; the object may go.
    Gone,
}

/// What was seen of a pod and may move it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sight {
    /// Volumes are there and the sandbox is ready.
    SandboxReady,
    /// The sandbox is gone or was never made, and work is left to do.
    SandboxMissing,
    /// All init containers did their part.
    Initialized,
    /// Every container ended and none is to be restarted.
    AllEnded,
    /// The pod is to stop: deleted, failed, over its deadline.
    StopWanted,
    /// Nothing of it runs any more, its sandbox neither.
    Stopped,
    /// It is deleted, stopped and cleaned up.
    CleanedUp,
}

impl Lifecycle {
    /// Every state, in order.
    pub const ALL: [Lifecycle; 6] = [
        Lifecycle::Preparing,
        Lifecycle::Initializing,
        Lifecycle::Running,
        Lifecycle::Terminating,
        Lifecycle::Ended,
        Lifecycle::Gone,
    ];

    /// The state after `sight`. A sight that means nothing in a state leaves it.
    #[must_use]
    pub fn next(self, sight: Sight) -> Lifecycle {
        use Lifecycle::*;
        match (self, sight) {
            (Gone, _) => Gone,
            // A deleted pod ends in `Gone` from wherever it stopped.
            (Terminating | Ended, Sight::CleanedUp) => Gone,
            (Terminating, Sight::Stopped) => Ended,
            // Termination is never taken back: what began to stop stops.
            (Terminating, _) => Terminating,
            // An ended pod that is deleted, or whose leftovers still run, is stopped like any other.
            (_, Sight::StopWanted | Sight::AllEnded) if self != Ended => Terminating,
            (Ended, Sight::StopWanted) => Terminating,
            (Ended, _) => Ended,
            (Preparing, Sight::SandboxReady) => Initializing,
            (Initializing | Running, Sight::SandboxMissing) => Preparing,
            (Initializing, Sight::Initialized) => Running,
            (state, _) => state,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Lifecycle::*;
    use super::*;

    const SIGHTS: [Sight; 7] = [
        Sight::SandboxReady,
        Sight::SandboxMissing,
        Sight::Initialized,
        Sight::AllEnded,
        Sight::StopWanted,
        Sight::Stopped,
        Sight::CleanedUp,
    ];

    #[test]
    fn every_state_answers_every_sight() {
        #[rustfmt::skip]
        let table = [
            //               SandboxReady  SandboxMissing Initialized  AllEnded     StopWanted   Stopped      CleanedUp
            (Preparing,    [Initializing,  Preparing,     Preparing,   Terminating, Terminating, Preparing,   Preparing]),
            (Initializing, [Initializing,  Preparing,     Running,     Terminating, Terminating, Initializing, Initializing]),
            (Running,      [Running,       Preparing,     Running,     Terminating, Terminating, Running,     Running]),
            (Terminating,  [Terminating,   Terminating,   Terminating, Terminating, Terminating, Ended,       Gone]),
            (Ended,        [Ended,         Ended,         Ended,       Ended,       Terminating, Ended,       Gone]),
            (Gone,         [Gone,          Gone,          Gone,        Gone,        Gone,        Gone,        Gone]),
        ];
        for (state, answers) in table {
            for (sight, wanted) in SIGHTS.into_iter().zip(answers) {
                assert_eq!(state.next(sight), wanted, "{state:?} after {sight:?}");
            }
        }
        assert_eq!(table.map(|(state, _)| state), Lifecycle::ALL);
    }

    #[test]
    fn termination_is_never_taken_back() {
        for sight in SIGHTS {
            assert!(Terminating.next(sight) >= Terminating, "{sight:?}");
        }
    }
}
