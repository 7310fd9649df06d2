//! Hosts that wait for devices: how often they look, when they speak of it, and when they give up.

use super::error::DeviceError;
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// A line for people, on standard error. Nobody need listen.
pub(crate) fn say(line: impl std::fmt::Display) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// Seconds that a step may take on a GPU.
const LIMIT: &str = "AUTOASSIST_STEP_LIMIT";
/// The same where nobody says so. A step takes a second where it takes long; the rest is for devices
/// that many share.
const USUAL_LIMIT: Duration = Duration::from_secs(600);

/// How long a step may take on a GPU: what `AUTOASSIST_STEP_LIMIT` says, in seconds.
///
/// # Errors
/// That is none.
pub(crate) fn step_limit() -> Result<Duration, DeviceError> {
    match std::env::var(LIMIT) {
        Err(_) => Ok(USUAL_LIMIT),
        Ok(text) => limit_of(&text).ok_or(DeviceError::StepLimit(text)),
    }
}

fn limit_of(text: &str) -> Option<Duration> {
    let seconds = text.parse().ok().filter(|seconds| *seconds > 0.0)?;
    Duration::try_from_secs_f64(seconds).ok()
}

/// Time for which a host keeps its core: a step of a small network is seen at once.
const SPIN: Duration = Duration::from_micros(20);
/// Time for which it only lends it to others; then it sleeps. A pause is short beside what was waited
/// already.
const YIELD: Duration = Duration::from_millis(2);
const PAUSES: [Duration; 2] = [Duration::from_micros(50), Duration::from_millis(5)];

/// A host that has nothing else to do.
pub(crate) struct Wait {
    began: Instant,
    ask: Duration,
}

impl Wait {
    pub(crate) fn begin() -> Wait {
        Wait {
            began: Instant::now(),
            // Where a driver collects launches before it submits them, a question makes it do so.
            ask: YIELD,
        }
    }

    /// Before the next look at what is waited for.
    pub(crate) fn pause(&self) {
        let waited = self.began.elapsed();
        if waited < SPIN {
            std::hint::spin_loop();
        } else if waited < YIELD {
            std::thread::yield_now();
        } else {
            std::thread::sleep((waited / 40).clamp(PAUSES[0], PAUSES[1]));
        }
    }

    /// How long it has been, whenever it is time to ask the device: seldom in the end.
    pub(crate) fn long(&mut self) -> Option<Duration> {
        let waited = self.began.elapsed();
        if waited < self.ask {
            return None;
        }
        self.ask = waited + waited.min(Duration::from_secs(1));
        Some(waited)
    }
}

/// When a wait is spoken of first, and when a device with a limit is believed to hang by somebody who
/// is asked to stop.
const LONG: Duration = Duration::from_secs(10);

/// What a device's work may take.
pub(crate) struct Patience {
    /// None where steps rightly take as long as they like.
    limit: Option<Duration>,
    speak: Duration,
    interrupt: Option<Arc<AtomicBool>>,
}

impl Patience {
    pub(crate) fn new(limit: Option<Duration>) -> Patience {
        Patience {
            limit,
            speak: LONG,
            interrupt: None,
        }
    }

    /// Waits for no hanging device once this is set.
    pub(crate) fn obey(&mut self, interrupt: Arc<AtomicBool>) {
        self.interrupt = Some(interrupt);
    }

    /// Judges a wait of that length for `what`; speaks of it now and then, on standard error.
    ///
    /// # Errors
    /// It was too long.
    pub(crate) fn look(
        &mut self,
        waited: Duration,
        what: &dyn Fn() -> String,
    ) -> Result<(), DeviceError> {
        self.judge(waited, what)?.iter().for_each(say);
        Ok(())
    }

    /// The same; what there is to say of it is left to the caller.
    pub(crate) fn judge(
        &mut self,
        waited: Duration,
        what: &dyn Fn() -> String,
    ) -> Result<Option<String>, DeviceError> {
        if let Some(limit) = self.limit {
            let asked = |interrupt: &Arc<AtomicBool>| interrupt.load(Ordering::Relaxed);
            if waited >= limit {
                let what = what();
                return Err(DeviceError::Hung { what, limit });
            }
            if waited >= LONG && self.interrupt.as_ref().is_some_and(asked) {
                return Err(DeviceError::Interrupted { what: what() });
            }
        }
        if waited < self.speak {
            return Ok(None);
        }
        // Twice as long the next time, so that slow steps are not spoken of one by one.
        self.speak = 2 * waited;
        let end = self.limit.map(|limit| {
            let left = limit.saturating_sub(waited).as_secs();
            format!("; given up in {left} s, unless {LIMIT} says otherwise")
        });
        let (what, end) = (what(), end.unwrap_or_default());
        Ok(Some(format!(
            "{what}: still running after {} s{end}",
            waited.as_secs()
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn step() -> String {
        "step 7".into()
    }

    #[test]
    fn a_long_wait_is_spoken_of_now_and_then_and_has_an_end() {
        let mut patience = Patience::new(Some(seconds(60)));
        let mut spoken = Vec::new();
        for waited in 0..60 {
            let line = patience.judge(seconds(waited), &step).unwrap();
            spoken.extend(line.map(|line| (waited, line)));
        }
        let when: Vec<u64> = spoken.iter().map(|(waited, _)| *waited).collect();
        assert_eq!(when, [10, 20, 40]);
        let line = &spoken[0].1;
        assert!(
            line.starts_with("step 7: still running after 10 s"),
            "{line}"
        );
        assert!(line.contains("given up in 50 s"), "{line}");
        let error = patience.judge(seconds(60), &step).unwrap_err();
        let text = error.to_string();
        assert!(
            text.starts_with("step 7 has not ended within 60 s"),
            "{text}"
        );
        assert!(text.contains(LIMIT), "{text}");
    }

    #[test]
    fn who_is_asked_to_stop_waits_for_slow_steps_and_for_no_hanging_one() {
        let asked = Arc::new(AtomicBool::new(false));
        let mut patience = Patience::new(Some(seconds(60)));
        patience.obey(asked.clone());
        assert!(patience.judge(seconds(30), &step).is_ok());
        asked.store(true, Ordering::Relaxed);
        assert!(patience.judge(seconds(9), &step).is_ok());
        let error = patience.judge(seconds(10), &step).unwrap_err();
        assert!(matches!(error, DeviceError::Interrupted { .. }), "{error}");
        // The SIMT executor takes minutes for a step that a GPU has in milliseconds.
        let mut patience = Patience::new(None);
        patience.obey(asked);
        let line = patience.judge(seconds(10_000), &step).unwrap().unwrap();
        assert_eq!(line, "step 7: still running after 10000 s");
    }

    #[test]
    fn a_limit_is_some_time() {
        assert_eq!(limit_of("60"), Some(seconds(60)));
        assert_eq!(limit_of("0.5"), Some(Duration::from_millis(500)));
        for none in ["", "0", "-1", "soon", "NaN", "inf"] {
            assert_eq!(limit_of(none), None, "{none}");
        }
    }

    #[test]
    fn a_device_is_asked_ever_more_seldom() {
        let mut wait = Wait::begin();
        assert_eq!(wait.ask, YIELD);
        wait.began -= seconds(5);
        let waited = wait.long().unwrap();
        assert_eq!(wait.ask, waited + seconds(1));
        assert_eq!(wait.long(), None);
    }
}
