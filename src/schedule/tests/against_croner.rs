//! Compares with `croner`, which has no options. Differences:
//!
//! - It shifts "fixed time" jobs (second, minute and hour are one plain number each) out of a gap and runs them at the
//!   first
//!   of a fold: our defaults. It drops others in a gap and runs them at both of a fold: our rules `skip` and `both`, or
//!   a bare `*` as the hour under any rule.
//! - It gives up on a shift over more than two hours. Not compared.
//! - It drops a job if the shift ends on a day that the expression does not match. Ours is moved there. Not compared.

use croner::{Cron, JobType, errors::CronError};

use super::*;

#[test]
fn every_zone_as_croner_does() {
    let mut random = random("every_zone_as_croner_does");
    let (mut expressions, mut compared, mut apart) = (0, 0, 0);
    for (zone, sets) in ZONES.iter() {
        for _ in 0..6 {
            let nowhere = Set { at: random.random_range(FIRST..2_000_000_000), before: 0, after: 0 };
            let set = sets.choose(&mut random).copied().unwrap_or(nowhere);
            let text = expression_near(set, &mut random);
            let after = DateTime::from_timestamp(set.at - random.random_range(0..2 * DAY), 0).unwrap();
            let Ok(standard) = text.parse::<Cron>() else { panic!("croner refuses {text}") };
            let fixed = standard.determine_job_type() == JobType::FixedTime;
            let (gap, fold) = if fixed { (Gap::Shift, Fold::First) } else { (Gap::Skip, Fold::Both) };
            let ours = calendar(&text, *zone, Rules { gap, fold });
            let named = |at: &DateTime<Zone>| {
                let civil = croner::CronDateTime::to_civil(at);
                let weekday = croner::CronDateTime::civil_weekday(at);
                let pattern = &standard.pattern;
                pattern.day_match(civil.year(), civil.month(), civil.day(), weekday).unwrap()
                    && pattern.month_match(civil.month()).unwrap()
            };
            let dropped_there = |one: &Occurrence| one.note == Some(Note::Moved) && !one.at.as_ref().is_some_and(named);
            let ours = ours.occurrences(after + TimeDelta::seconds(1)).filter(|one| !dropped_there(one));
            let ours: Vec<_> = ours.filter_map(|one| one.at).take(6).collect();
            expressions += 1;
            let mut last = after.with_timezone(zone);
            for our in ours {
                match standard.find_next_occurrence(&last, false) {
                    Ok(next) => assert_eq!(our, next, "{text} in {zone} after {last}, around {set:?}"),
                    Err(CronError::TimeSearchLimitExceeded) if fixed && set.after - set.before > 7200 => {
                        apart += 1;
                        break;
                    }
                    Err(error) => panic!("{text} in {zone} after {last}: {error}"),
                }
                compared += 1;
                last = our;
            }
        }
    }
    println!("{expressions} expressions, {compared} instants, {apart} given up by croner");
}
