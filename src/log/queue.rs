//! The way of a line to stderr: a bounded queue, emptied by a thread of its own.
//!
//! Whoever reads stderr may stop doing so (a log driver that blocks). The thread then waits in `write`, the queue fills,
//! and further lines are dropped and counted; nothing else in the process waits. Once the queue flows again, one line
//! reports how many were dropped.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// Lines on their way to a writer; clones of the `Arc` are one and the same queue.
pub(super) struct Queue {
    state: Mutex<QueueState>,
    changed: Condvar,
    /// Lines dropped since the start.
    dropped: AtomicU64,
    /// The line that reports a number of dropped lines.
    report: Box<dyn Fn(u64) -> String + Send + Sync>,
}

#[derive(Default)]
struct QueueState {
    lines: VecDeque<String>,
    /// Of all lines in the queue.
    bytes: usize,
    /// Lines dropped and not reported yet.
    dropped: u64,
    /// The last urgent line that found no room: it comes after the report.
    urgent: Option<String>,
    /// Whether the thread writes a line that is not in the queue any more.
    writing: bool,
}

impl Queue {
    /// A queue whose lines a thread of its own writes to `out`.
    ///
    /// # Errors
    /// The system gives no thread.
    pub(super) fn start(
        out: impl Write + Send + 'static,
        report: impl Fn(u64) -> String + Send + Sync + 'static,
    ) -> io::Result<Arc<Self>> {
        let (state, changed) = (Mutex::default(), Condvar::new());
        let queue = Arc::new(Self { state, changed, dropped: AtomicU64::new(0), report: Box::new(report) });
        let lines = Arc::clone(&queue);
        let thread = thread::Builder::new().name("log".to_owned()).stack_size(STACK);
        thread.spawn(move || lines.write_all_to(out))?;
        Ok(queue)
    }

    /// Takes a line, or drops and counts it; never waits. Of the urgent lines that find no room the last one is kept.
    pub(super) fn push(&self, line: String, urgent: bool) {
        let mut state = self.state();
        // Once lines are dropped, all are until half of the queue is free: one gap is easier to read than many.
        let limit = if state.dropped > 0 || state.urgent.is_some() { LIMIT / 2 } else { LIMIT };
        if state.bytes + line.len() <= limit {
            self.catch_up(&mut state);
            state.append(line);
        } else {
            let lost = if urgent { state.urgent.replace(line).is_some() } else { true };
            if lost {
                state.dropped += 1;
                self.dropped.fetch_add(1, Ordering::Relaxed);
            }
        }
        drop(state);
        self.changed.notify_all();
    }

    /// How many lines were dropped since the start.
    pub(super) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Waits until all is written, for at most `patience`.
    pub(super) fn flush(&self, patience: Duration) {
        let end = Instant::now() + patience;
        let mut state = self.state();
        while !state.is_done() {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn write_all_to(&self, mut out: impl Write) {
        let mut state = self.state();
        loop {
            if state.lines.is_empty() {
                self.catch_up(&mut state);
            }
            let Some(line) = state.lines.pop_front() else {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            state.bytes -= line.len();
            state.writing = true;
            drop(state);
            write(&mut out, line.as_bytes());
            state = self.state();
            state.writing = false;
            self.changed.notify_all();
        }
    }

    /// Lines flow again: reports how many did not.
    fn catch_up(&self, state: &mut QueueState) {
        if state.dropped > 0 {
            let dropped = std::mem::take(&mut state.dropped);
            state.append((self.report)(dropped));
        }
        if let Some(line) = state.urgent.take() {
            state.append(line);
        }
    }

    fn state(&self) -> MutexGuard<'_, QueueState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl QueueState {
    fn append(&mut self, line: String) {
        self.bytes += line.len();
        self.lines.push_back(line);
    }

    fn is_done(&self) -> bool {
        self.lines.is_empty() && self.dropped == 0 && self.urgent.is_none() && !self.writing
    }
}

/// Writes a whole line, also where the other end has made the pipe non-blocking. With stderr gone nobody reads it.
fn write(out: &mut impl Write, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        match out.write(bytes) {
            Ok(0) => return,
            Ok(written) => bytes = bytes.get(written..).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => thread::sleep(Duration::from_millis(10)),
            Err(_) => return,
        }
    }
}

/// How many bytes wait at most, the report and the last urgent line not counted.
pub(super) const LIMIT: usize = 256 * 1024;

/// The thread only writes.
const STACK: usize = 64 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether it has stopped, and what it has read.
    type Read = (bool, Vec<u8>);

    /// A reader that can stop reading.
    #[derive(Clone, Default)]
    struct Reader(Arc<(Mutex<Read>, Condvar)>);

    impl Reader {
        fn stopped() -> Self {
            let reader = Self::default();
            reader.0.0.lock().unwrap().0 = true;
            reader
        }

        fn go_on(&self) {
            self.0.0.lock().unwrap().0 = false;
            self.0.1.notify_all();
        }

        fn text(&self) -> String {
            String::from_utf8(self.0.0.lock().unwrap().1.clone()).unwrap()
        }
    }

    impl Write for Reader {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let state = self.0.0.lock().unwrap();
            let mut state = self.0.1.wait_while(state, |(stopped, _)| *stopped).unwrap();
            // As a pipe does: not always all of it.
            let part = bytes.len().min(1000);
            state.1.extend_from_slice(&bytes[..part]);
            Ok(part)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn queue(reader: &Reader) -> Arc<Queue> {
        Queue::start(reader.clone(), |dropped| format!("dropped {dropped}\n")).unwrap()
    }

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn what_does_not_fit_is_dropped_and_counted_and_nobody_waits() {
        let reader = Reader::stopped();
        let queue = queue(&reader);
        let line = |at: usize| format!("{at:01023}\n");
        for at in 0..1000 {
            queue.push(line(at), false);
        }
        let dropped = queue.dropped();
        assert!((1000 - 257..=1000 - 256).contains(&dropped), "{dropped}");
        assert!(queue.state().bytes <= LIMIT);
        queue.flush(Duration::from_millis(20));

        reader.go_on();
        queue.flush(LONG);
        queue.push("after\n".to_owned(), false);
        queue.flush(LONG);
        let kept: String = (0..1000 - usize::try_from(dropped).unwrap()).map(line).collect();
        assert_eq!(reader.text(), format!("{kept}dropped {dropped}\nafter\n"));
        assert_eq!(queue.dropped(), dropped, "a report is no second drop");
    }

    #[test]
    fn the_report_stands_where_lines_are_missing() {
        let reader = Reader::stopped();
        let queue = queue(&reader);
        let fill = |name: &str| queue.push(name.repeat(LIMIT / 4), false);
        for name in ["a", "b", "c", "d", "e", "f"] {
            fill(name);
        }
        let lost = queue.dropped();
        reader.go_on();
        queue.flush(LONG);
        fill("g");
        queue.flush(LONG);
        let mut order: Vec<char> = reader.text().chars().collect();
        order.dedup();
        let order: String = order.into_iter().collect();
        assert!(order.ends_with(&format!("droped {lost}\ng")), "{order}");
    }

    #[test]
    fn the_last_fault_is_written_although_the_queue_was_full() {
        let reader = Reader::stopped();
        let queue = queue(&reader);
        for _ in 0..300 {
            queue.push("x".repeat(1024), false);
        }
        queue.push("fault 1\n".to_owned(), true);
        queue.push("fault 2\n".to_owned(), true);
        reader.go_on();
        queue.flush(LONG);
        let text = reader.text();
        let end = text.trim_start_matches('x');
        assert!(end.starts_with("dropped ") && end.ends_with("\nfault 2\n"), "{end}");
    }
}
