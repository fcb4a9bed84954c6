//! Whose turn it is: domains in a ring, each with its own line and its own limit.

use std::collections::{HashMap, VecDeque};

/// Waiting jobs by domain. A domain gets one turn a round, whatever the length of its line, so
/// that ten thousand URLs of one site do not keep others waiting.
pub(super) struct FairQueue {
    lines: Vec<Line>,
    by_domain: HashMap<String, usize>,
    /// Lines with a job and room for one more in flight.
    ring: VecDeque<usize>,
    limit: usize,
    waiting: usize,
}

#[derive(Default)]
struct Line {
    jobs: VecDeque<usize>,
    in_flight: usize,
    in_ring: bool,
    /// Not to be asked now, and one at a time afterwards.
    rests: bool,
    slow: bool,
}

/// A job whose turn has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Turn {
    pub(super) job: usize,
    /// Goes back to [`FairQueue::done`].
    pub(super) line: usize,
    /// Jobs of the domain that still wait.
    pub(super) behind: usize,
}

impl FairQueue {
    /// At most `limit` jobs of a domain in flight.
    pub(super) fn new(limit: usize) -> Self {
        Self {
            lines: Vec::new(),
            by_domain: HashMap::new(),
            ring: VecDeque::new(),
            limit: limit.max(1),
            waiting: 0,
        }
    }

    /// Adds a job behind all others of its domain, and gives the domain's line.
    pub(super) fn push(&mut self, domain: &str, job: usize) -> usize {
        let line = self.by_domain.get(domain).copied().unwrap_or_else(|| {
            self.lines.push(Line::default());
            self.by_domain.insert(domain.to_owned(), self.lines.len() - 1);
            self.lines.len() - 1
        });
        self.lines[line].jobs.push_back(job);
        self.waiting += 1;
        self.enter(line);
        line
    }

    /// Puts a job that is tried again before all others of its line.
    pub(super) fn push_front(&mut self, line: usize, job: usize) {
        self.lines[line].jobs.push_front(job);
        self.waiting += 1;
        self.enter(line);
    }

    /// The next job, round robin over domains.
    pub(super) fn pop(&mut self) -> Option<Turn> {
        loop {
            let line = self.ring.pop_front()?;
            self.lines[line].in_ring = false;
            // `pop_job` may have taken the line's last job or its last room since it entered.
            if self.has_room(line)
                && let Some(job) = self.lines[line].jobs.pop_front()
            {
                let turn = self.start(line, job);
                self.enter(line);
                return Some(turn);
            }
        }
    }

    /// This job out of turn, if it waits near the head of a domain that has room.
    pub(super) fn pop_job(&mut self, line: usize, job: usize) -> Option<Turn> {
        if !self.has_room(line) {
            return None;
        }
        let at = self.lines[line].jobs.iter().take(LOOK_AHEAD).position(|j| *j == job)?;
        self.lines[line].jobs.remove(at);
        Some(self.start(line, job))
    }

    /// A job of this line is no longer in flight.
    pub(super) fn done(&mut self, line: usize) {
        self.lines[line].in_flight -= 1;
        self.enter(line);
    }

    /// Keeps a line from its turns until [`FairQueue::wake`], and from then on has one job of it in
    /// flight at a time.
    pub(super) fn rest(&mut self, line: usize) {
        self.lines[line].rests = true;
        self.lines[line].slow = true;
    }

    /// Ends a line's rest.
    pub(super) fn wake(&mut self, line: usize) {
        self.lines[line].rests = false;
        self.enter(line);
    }

    /// Jobs that wait.
    pub(super) fn len(&self) -> usize {
        self.waiting
    }

    /// Whether no job waits.
    pub(super) fn is_empty(&self) -> bool {
        self.waiting == 0
    }

    fn start(&mut self, line: usize, job: usize) -> Turn {
        self.waiting -= 1;
        let of = &mut self.lines[line];
        of.in_flight += 1;
        Turn { job, line, behind: of.jobs.len() }
    }

    fn has_room(&self, line: usize) -> bool {
        let of = &self.lines[line];
        !of.rests && of.in_flight < if of.slow { 1 } else { self.limit }
    }

    fn enter(&mut self, line: usize) {
        let room = self.has_room(line);
        let of = &mut self.lines[line];
        if !of.in_ring && !of.jobs.is_empty() && room {
            of.in_ring = true;
            self.ring.push_back(line);
        }
    }
}

/// How far from the head of a line [`FairQueue::pop_job`] looks.
const LOOK_AHEAD: usize = 128;

#[cfg(test)]
mod tests {
    use super::*;

    fn order(queue: &mut FairQueue) -> Vec<usize> {
        std::iter::from_fn(|| queue.pop().map(|turn| turn.job)).collect()
    }

    #[test]
    fn domains_take_turns_and_none_has_more_than_its_limit_in_flight() {
        let mut queue = FairQueue::new(3);
        for job in 0..100 {
            queue.push("big.example", job);
        }
        queue.push("a.example", 100);
        queue.push("b.example", 101);
        assert_eq!(order(&mut queue), [0, 100, 101, 1, 2]);
        queue.done(0);
        assert_eq!(order(&mut queue), [3]);
        assert!(!queue.is_empty());
    }

    #[test]
    fn a_retry_goes_before_the_rest_of_its_line() {
        let mut queue = FairQueue::new(1);
        for job in 0..3 {
            queue.push("a.example", job);
        }
        let first = queue.pop().unwrap();
        assert_eq!((first.job, first.behind), (0, 2));
        queue.done(first.line);
        queue.push_front(first.line, 0);
        assert_eq!(queue.pop().unwrap().job, 0);
    }

    #[test]
    fn a_job_can_be_taken_out_of_turn_but_not_over_the_limit() {
        let mut queue = FairQueue::new(2);
        let line = queue.push("a.example", 0);
        for job in 1..5 {
            assert_eq!(queue.push("a.example", job), line);
        }
        assert_eq!(queue.pop_job(line, 3).unwrap().job, 3);
        assert_eq!(queue.pop_job(line, 3), None);
        assert_eq!(queue.pop().unwrap().job, 0);
        assert_eq!(queue.pop_job(line, 1), None);
        queue.done(line);
        assert_eq!(order(&mut queue), [1]);
        queue.done(line);
        queue.done(line);
        assert_eq!(order(&mut queue), [2, 4]);
        assert!(queue.is_empty());
    }

    #[test]
    fn a_line_that_rests_has_no_turn_and_then_one_at_a_time() {
        let mut queue = FairQueue::new(3);
        for job in 0..4 {
            queue.push("a.example", job);
        }
        let line = queue.push("b.example", 4);
        let first = queue.pop().unwrap();
        queue.done(first.line);
        queue.rest(first.line);
        queue.push_front(first.line, first.job);
        assert_eq!(order(&mut queue), [4]);
        assert_eq!(queue.pop_job(first.line, 1), None);
        assert!(!queue.is_empty());
        queue.wake(first.line);
        assert_eq!(order(&mut queue), [0]);
        queue.done(first.line);
        assert_eq!(order(&mut queue), [1]);
        queue.done(line);
    }

    #[test]
    fn every_job_gets_exactly_one_turn() {
        let mut queue = FairQueue::new(2);
        for job in 0..500 {
            queue.push(&format!("{}.example", job % 7), job);
        }
        let mut seen = vec![0; 500];
        while let Some(turn) = queue.pop() {
            seen[turn.job] += 1;
            queue.done(turn.line);
        }
        assert!(seen.iter().all(|count| *count == 1));
    }
}
