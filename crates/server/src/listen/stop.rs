//! How the parts of a server are told to end.

use tokio::sync::watch;

/// Where a server is in its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd)]
enum Phase {
    Running,
    /// Take nothing new, finish what is under way.
    Finishing,
    /// End at once.
    Ended,
}

/// Tells the parts of a server to end; cheap to clone, every clone can be asked.
#[derive(Clone, Debug)]
pub struct Stop(watch::Sender<Phase>);

impl Default for Stop {
    fn default() -> Self {
        Self(watch::Sender::new(Phase::Running))
    }
}

impl Stop {
    /// Take nothing new, finish what is under way.
    pub fn finish(&self) {
        self.raise(Phase::Finishing);
    }
    /// End at once.
    pub fn end(&self) {
        self.raise(Phase::Ended);
    }
    fn raise(&self, phase: Phase) {
        self.0.send_if_modified(|now| {
            let raise = *now < phase;
            if raise {
                *now = phase;
            }
            raise
        });
    }
    /// Whether nothing new is to be taken.
    pub fn is_finishing(&self) -> bool {
        *self.0.borrow() >= Phase::Finishing
    }
    /// Waits until nothing new is to be taken.
    pub async fn finishing(&self) {
        self.reached(Phase::Finishing).await;
    }
    /// Waits until everything is to end at once.
    pub async fn ended(&self) {
        self.reached(Phase::Ended).await;
    }
    async fn reached(&self, phase: Phase) {
        // Fails only without a sender, and `self` is one.
        let _ = self.0.subscribe().wait_for(|now| *now >= phase).await;
    }
}
