//! An oracle without a search: it steps through each minute around a clock change and applies the rules literally.

use std::collections::BTreeMap;

use chrono::{Datelike, Timelike};

use super::*;

fn allows(field: &str, value: u32, first: u32, last: u32) -> bool {
    field.split(',').any(|part| {
        let (range, step) = part.split_once('/').unwrap_or((part, "1"));
        let (from, to) = match range.split_once('-') {
            _ if range == "*" => (first, last),
            Some((from, to)) => (from.parse().unwrap(), to.parse().unwrap()),
            None => (range.parse().unwrap(), range.parse().unwrap()),
        };
        value >= from && value <= to && (value - from).is_multiple_of(step.parse().unwrap())
    })
}

/// The five fields, with numbers for names.
fn plain(expression: &str) -> Vec<String> {
    let mut text = expression.to_lowercase();
    let months = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
    let weekdays = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];
    for (number, name) in (1..).zip(months).chain((0..).zip(weekdays)) {
        text = text.replace(name, &number.to_string());
    }
    text.split(' ').map(ToOwned::to_owned).collect()
}

fn matches(fields: &[String], civil: i64) -> bool {
    let at = DateTime::from_timestamp(civil, 0).unwrap();
    if at.second() != 0 || !allows(&fields[0], at.minute(), 0, 59) || !allows(&fields[1], at.hour(), 0, 23) {
        return false;
    }
    let weekday = at.weekday().num_days_from_sunday();
    let day_of_week = allows(&fields[4], weekday, 0, 6) || weekday == 0 && allows(&fields[4], 7, 0, 6);
    let day_of_month = allows(&fields[2], at.day(), 1, 31);
    let day = match (fields[2].as_str(), fields[4].as_str()) {
        (_, "*") => day_of_month,
        ("*", _) => day_of_week,
        _ => day_of_month || day_of_week,
    };
    day && allows(&fields[3], at.month(), 1, 12)
}

struct Window {
    steps: Vec<(i64, i64)>,
    by_civil: BTreeMap<i64, Vec<i64>>,
    size: i64,
    /// Far enough from the edges to contain a whole fold.
    inner: std::ops::Range<i64>,
}

impl Window {
    fn around(zone: Zone, set: Set) -> Self {
        let even = [set.at, set.before, set.after].iter().all(|seconds| seconds % 60 == 0);
        let (size, half, margin) = if even { (60, 18 * 3600, 8 * 3600) } else { (1, 2 * 3600, 3600) };
        let steps: Vec<_> = (0..2 * half / size)
            .map(|step| set.at - half + step * size)
            .map(|at| (at, at + offset_of(zone, at)))
            .collect();
        let mut by_civil = BTreeMap::<_, Vec<_>>::new();
        for (at, civil) in &steps {
            by_civil.entry(*civil).or_default().push(*at);
        }
        Self { steps, by_civil, size, inner: set.at - half + margin..set.at + half - margin }
    }

    fn matching(&self, expression: &str) -> Vec<i64> {
        let (first, last) = (self.by_civil.first_key_value().unwrap().0, self.by_civil.last_key_value().unwrap().0);
        let all = (*first..=*last).step_by(usize::try_from(self.size).unwrap());
        let fields = plain(expression);
        all.filter(|civil| matches(&fields, *civil)).collect()
    }

    fn instants(&self, matching: &[i64], elapsed: bool, rules: Rules) -> Vec<i64> {
        let mut instants = Vec::new();
        for civil in matching {
            match (self.by_civil.get(civil), rules.gap, rules.fold) {
                (Some(all), _, _) if elapsed => instants.extend(all),
                (Some(all), _, Fold::Both) => instants.extend(all),
                (Some(all), _, Fold::First) => instants.push(all[0]),
                (Some(all), _, Fold::Second) => instants.push(all[all.len() - 1]),
                (None, Gap::Shift, _) if !elapsed => {
                    let over = self.steps.windows(2).find(|pair| pair[0].1 < *civil && pair[1].1 > *civil);
                    instants.push(over.unwrap()[1].0);
                }
                (None, _, _) => {}
            }
        }
        instants.sort_unstable();
        instants.dedup();
        instants.retain(|at| self.inner.contains(at));
        instants
    }
}

#[test]
fn every_zone_around_its_changes() {
    let mut random = random("every_zone_around_its_changes");
    let (mut compared, mut windows) = (0_usize, 0_usize);
    for (zone, sets) in ZONES.iter() {
        let widest = sets.iter().max_by_key(|set| (set.after - set.before).abs());
        let deepest = sets.iter().max_by_key(|set| set.before - set.after);
        let odd = sets.iter().find(|set| set.before % 60 != 0);
        let chosen = sets.choose(&mut random).into_iter().chain(widest).chain(deepest).chain(odd);
        for set in chosen {
            let window = Window::around(*zone, *set);
            windows += 1;
            let text = expression_near(*set, &mut random);
            let matching = window.matching(&text);
            let elapsed = text.split(' ').nth(1) == Some("*");
            for rules in ALL_RULES.choose_multiple(&mut random, 2) {
                let expected = window.instants(&matching, elapsed, *rules);
                let calendar = calendar(&text, *zone, *rules);
                let start = DateTime::from_timestamp(window.inner.start - 1, 0).unwrap();
                let found = std::iter::successors(calendar.next_after(start), |at| calendar.next_after(*at));
                let found: Vec<_> = found.map(|at| at.timestamp()).take_while(|at| *at < window.inner.end).collect();
                assert_eq!(found, expected, "{text} in {zone}, {rules:?}, around {set:?}");
                compared += found.len();
                // From anywhere, not only from one occurrence to the next.
                for _ in 0..4 {
                    let after = random.random_range(window.inner.clone());
                    let next = calendar.next_after(DateTime::from_timestamp(after, 0).unwrap());
                    let next = next.map(|at| at.timestamp()).filter(|at| *at < window.inner.end);
                    let expected = expected.iter().find(|at| **at > after).copied();
                    assert_eq!(next, expected, "{text} in {zone}, {rules:?}, after {after}, around {set:?}");
                }
            }
        }
    }
    println!("{windows} changes of clocks, {compared} instants");
}
