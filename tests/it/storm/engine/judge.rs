//! Compares outcomes with expectations.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt,
};

use super::{
    doubles::{self, Doubles},
    history::{Asked, Delivery, History},
    jobs::{Expected, Told},
    recovery::{self, Recovery},
};

#[derive(Debug, Default)]
pub struct Verdict {
    pub findings: Vec<Finding>,
    /// Jobs and deliveries dead as `exhausted` or `crashed`: unwanted, but kept as dead letters.
    pub given_up: usize,
    pub doubles: Doubles,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    pub sort: Sort,
    pub text: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sort {
    /// A job, inbox row or delivery is missing or ended unexpectedly.
    Lost,
    /// An unexpected inbox row.
    DoubledRow,
    /// A repeated or misdirected push that no fault explains.
    UnexplainedPush,
    /// A job that came later than any fault explains.
    Late,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.sort, self.text)
    }
}

impl Verdict {
    pub fn count(&self, sort: Sort) -> usize {
        self.findings.iter().filter(|finding| finding.sort == sort).count()
    }

    fn find(&mut self, sort: Sort, text: String) {
        self.findings.push(Finding { sort, text });
    }
}

pub fn judge(history: &History) -> Verdict {
    let mut court = Court { history, verdict: Verdict::default(), told: HashMap::new() };
    court.jobs();
    court.inbox();
    court.deliveries();
    court.pushes();
    court.recovery();
    court.verdict
}

struct Court<'a> {
    history: &'a History,
    verdict: Verdict,
    /// Expected recipients by root, of jobs that ended as expected.
    told: HashMap<&'a str, &'a Told>,
}

impl<'a> Court<'a> {
    fn jobs(&mut self) {
        let mut rivals: BTreeMap<usize, Vec<(&'a Asked, &'a Told)>> = BTreeMap::new();
        for asked in &self.history.jobs {
            match &asked.expected {
                Expected::Done(told) => self.must_tell(&asked.id, told),
                Expected::Rival(number, told) => rivals.entry(*number).or_default().push((asked, told)),
                Expected::Skipped(reason) => self.must_end(&asked.id, "skipped", Some(reason)),
                Expected::Expired => self.must_end(&asked.id, "expired", None),
                Expected::Dead(reason) => {
                    self.must_end(&asked.id, "dead", Some(reason));
                    self.must_have_letter(&asked.id, Some(reason));
                }
                Expected::Letter => self.must_have_letter(&asked.id, None),
            }
        }
        for rivals in rivals.values() {
            self.rivals(rivals);
        }
    }

    /// The first that is done wins. If none is, the last is reported. A job that was given up owns nothing.
    fn rivals(&mut self, rivals: &[(&'a Asked, &'a Told)]) {
        let is_done = |id: &str| self.history.runs.get(id).is_some_and(|run| run.state == "done");
        let winner = rivals.iter().position(|(asked, _)| is_done(&asked.id)).unwrap_or(rivals.len() - 1);
        for (place, (asked, told)) in rivals.iter().enumerate() {
            if place == winner {
                self.must_tell(&asked.id, told);
            } else {
                self.must_end(&asked.id, "skipped", Some("already_sent"));
            }
        }
    }

    fn must_tell(&mut self, id: &'a str, told: &'a Told) {
        let mut went_well = self.ended(id, "done", None);
        if went_well && !told.direct {
            went_well = self.ended(&format!("{id}~notification"), "done", None);
        }
        if went_well {
            self.told.insert(id, told);
        }
    }

    fn must_end(&mut self, id: &str, state: &str, reason: Option<&str>) {
        self.ended(id, state, reason);
    }

    /// Whether a job ended as expected. Counts jobs that were given up.
    fn ended(&mut self, id: &str, state: &str, reason: Option<&str>) -> bool {
        let Some(run) = self.history.runs.get(id) else {
            self.verdict.find(Sort::Lost, format!("{id} has no record; expected {state}"));
            return false;
        };
        let is = run.reason.as_deref();
        if run.state == state && (reason.is_none() || is == reason) {
            return true;
        }
        if run.state == "dead" && matches!(is, Some("exhausted" | "crashed")) {
            self.verdict.given_up += 1;
            self.must_have_letter(id, is);
        } else {
            let text = format!("{id} is {} ({is:?}); expected {state} ({reason:?})", run.state);
            self.verdict.find(Sort::Lost, text);
        }
        false
    }

    fn must_have_letter(&mut self, id: &str, reason: Option<&str>) {
        let letters = self.history.letters.get(id);
        let found = letters.is_some_and(|reasons| reason.is_none_or(|reason| reasons.contains(reason)));
        if !found {
            self.verdict.find(Sort::Lost, format!("{id} has no dead letter for {reason:?}, but {letters:?}"));
        }
    }

    fn inbox(&mut self) {
        let mut missing: BTreeSet<(&str, &str)> = BTreeSet::new();
        for (root, told) in &self.told {
            missing.extend(told.users.iter().map(|user| (*root, user.as_str())));
        }
        let history = self.history;
        for (root, user) in &history.inbox {
            // Removed, so that a second row is not expected.
            if !missing.remove(&(root.as_str(), user.as_str())) {
                self.verdict.find(Sort::DoubledRow, format!("{user} has {root} in the inbox, once too often"));
            }
        }
        for (root, user) in missing {
            self.verdict.find(Sort::Lost, format!("{user} has not got {root} in the inbox"));
        }
    }

    fn deliveries(&mut self) {
        let history = self.history;
        let mut missing: BTreeSet<(&str, &str, &str)> = BTreeSet::new();
        for (root, told) in self.told.iter().filter(|(_, told)| told.push) {
            for user in &told.users {
                let browsers = history.live.get(user).into_iter().flatten();
                missing.extend(browsers.map(|browser| (*root, user.as_str(), browser.as_str())));
            }
        }
        for delivery in &history.deliveries {
            let root = delivery.root.as_str();
            missing.remove(&(root, delivery.user.as_str(), delivery.browser.as_str()));
            let wanted = self.told.get(root).is_some_and(|told| told.push && told.users.contains(&delivery.user));
            if !wanted {
                let text = format!("{root} has a delivery to {}, who was not to be told", delivery.browser);
                self.verdict.find(Sort::UnexplainedPush, text);
            }
            self.delivery(delivery);
        }
        for (root, user, browser) in missing {
            self.verdict.find(Sort::Lost, format!("{root} has no delivery to {user} at {browser}"));
        }
    }

    fn delivery(&mut self, delivery: &Delivery) {
        let Delivery { id, root, user, browser, state, reason, fence } = delivery;
        let is_live = self.history.live.get(user).is_some_and(|browsers| browsers.contains(browser));
        match (state.as_str(), reason.as_deref()) {
            ("sent", _) => {}
            ("failed", Some("subscription_gone")) if !is_live => {}
            ("dead", Some("exhausted" | "crashed")) => {
                self.verdict.given_up += 1;
                self.must_have_letter(id, reason.as_deref());
            }
            _ => {
                let text = format!("delivery {id} of {root} to {browser} is {state} ({reason:?}; {fence})");
                self.verdict.find(Sort::Lost, text);
            }
        }
    }

    fn recovery(&mut self) {
        let mut late = recovery::late_jobs(self.history);
        late.sort_by_key(|(_, late)| *late);
        let unbearable = late.iter().filter(|(_, late)| *late > recovery::LONGEST);
        let texts = unbearable.map(|(asked, late)| format!("{} came {late} ms after {}", asked.id, asked.ready));
        for text in texts.collect::<Vec<_>>() {
            self.verdict.find(Sort::Late, text);
        }
        let recovery = Recovery::of(self.history);
        let p99 = recovery.p99();
        if recovery.late() >= 100 && p99 > recovery::P99 {
            self.verdict.find(Sort::Late, format!("99 of 100 late jobs came within {p99} ms"));
        }
    }

    fn pushes(&mut self) {
        let (doubles, findings) = doubles::judge(self.history);
        self.verdict.doubles = doubles;
        self.verdict.findings.extend(findings);
    }
}
