use proptest::prelude::*;

use super::*;

fn breaker() -> (Breaker, Clock) {
    let clock = Clock::manual("2026-10-25T00:30:00Z".parse().unwrap());
    (Breaker::new(BreakerPolicy::default(), Concurrency::UNLIMITED, clock.clone()), clock)
}

fn send(breaker: &Breaker, health: ProviderHealth) -> Option<DateTime<Utc>> {
    breaker.admit().expect("it lets pass").report(health).open_until
}

fn opened() -> (Breaker, Clock) {
    let (breaker, clock) = breaker();
    while send(&breaker, ProviderHealth::Failing).is_none() {}
    (breaker, clock)
}

#[test]
fn half_of_ten_failing_open_it() {
    let (breaker, _) = breaker();
    for _ in 0..5 {
        assert_eq!(send(&breaker, ProviderHealth::Well), None);
    }
    for _ in 0..4 {
        assert_eq!(send(&breaker, ProviderHealth::Failing), None, "fewer than ten sends say nothing");
    }
    assert!(send(&breaker, ProviderHealth::Failing).is_some());
    assert_eq!(breaker.state(), BreakerState::Open);
    assert!(breaker.admit().is_err());
}

#[test]
fn silence_opens_it_sooner_and_an_answer_in_between_does_not() {
    let (breaker, _) = breaker();
    for _ in 0..4 {
        assert_eq!(send(&breaker, ProviderHealth::Silent), None);
    }
    assert_eq!(send(&breaker, ProviderHealth::Well), None);
    for _ in 0..4 {
        assert_eq!(send(&breaker, ProviderHealth::Silent), None);
    }
    assert!(send(&breaker, ProviderHealth::Silent).is_some());
}

#[test]
fn ten_failures_in_a_row_open_it_however_busy_it_was_before() {
    let (breaker, _) = breaker();
    for _ in 0..10_000 {
        assert_eq!(send(&breaker, ProviderHealth::Well), None);
    }
    for _ in 0..9 {
        assert_eq!(send(&breaker, ProviderHealth::Failing), None);
    }
    assert!(send(&breaker, ProviderHealth::Failing).is_some());
}

#[test]
fn old_failures_count_only_in_a_row() {
    let (breaker, clock) = breaker();
    for _ in 0..9 {
        send(&breaker, ProviderHealth::Failing);
    }
    clock.advance(TimeDelta::seconds(31));
    assert_eq!(send(&breaker, ProviderHealth::Well), None);
    assert_eq!(send(&breaker, ProviderHealth::Failing), None, "one of two, and one in a row");
    let (breaker, clock) = self::breaker();
    for _ in 0..9 {
        assert_eq!(send(&breaker, ProviderHealth::Failing), None);
        clock.advance(TimeDelta::minutes(5));
    }
    assert!(
        send(&breaker, ProviderHealth::Failing).is_some(),
        "little is sent, and none of it got through for an hour"
    );
}

#[tokio::test(start_paused = true)]
async fn no_more_are_under_way_than_may_be() {
    let clock = Clock::manual("2026-10-25T00:30:00Z".parse().unwrap());
    let within = Duration::from_secs(8);
    let breaker = Breaker::new(BreakerPolicy::default(), Concurrency { limit: 2, wait: within }, clock.clone());
    let permits = [breaker.permit().await.unwrap(), breaker.permit().await.unwrap()];
    let asked = tokio::time::Instant::now();
    assert_eq!(breaker.permit().await.err(), Some(clock.now() + LOOK_AGAIN), "not in time");
    assert_eq!(asked.elapsed(), within);
    assert!(breaker.permit().await.is_err());
    assert_eq!(asked.elapsed(), within, "what is slow is not waited for again");
    drop(permits);
    let permits = [breaker.permit().await.unwrap(), breaker.permit().await.unwrap()];
    assert!(breaker.permit().await.is_err());
    assert_eq!(asked.elapsed(), within, "the last took as long as another would have waited");
    drop(permits);
    let permits = [breaker.permit().await.unwrap(), breaker.permit().await.unwrap()];
    assert!(breaker.permit().await.is_err());
    assert_eq!(asked.elapsed(), within * 2, "those before were quick");
    drop(permits);
    assert!(breaker.permit().await.is_ok());
}

#[test]
fn a_probe_closes_it_or_keeps_it_open_for_longer() {
    let (breaker, clock) = opened();
    assert_eq!(breaker.appetite(), Appetite::None(clock.now() + TimeDelta::seconds(5)));
    clock.advance(TimeDelta::seconds(5));
    assert_eq!((breaker.state(), breaker.appetite()), (BreakerState::HalfOpen, Appetite::One));
    let probe = breaker.admit().unwrap();
    assert_eq!(breaker.admit().err(), Some(clock.now() + LOOK_AGAIN), "one at a time");
    let longer = clock.now() + TimeDelta::seconds(10);
    assert_eq!(probe.report(ProviderHealth::Failing), Transition { open_until: Some(longer), change: None });
    for _ in 0..10 {
        clock.advance(TimeDelta::minutes(1));
        send(&breaker, ProviderHealth::Silent);
    }
    assert_eq!(breaker.admit().err(), Some(clock.now() + TimeDelta::minutes(1)), "no longer than the longest");
    clock.advance(TimeDelta::minutes(1));
    assert_eq!(send(&breaker, ProviderHealth::Well), None);
    assert_eq!(breaker.state(), BreakerState::Closed);
    assert_eq!(send(&breaker, ProviderHealth::Failing), None, "it counts afresh");
}

#[test]
fn a_probe_that_is_given_up_leaves_its_place_to_another() {
    let (breaker, clock) = opened();
    clock.advance(TimeDelta::seconds(5));
    drop(breaker.admit().unwrap());
    assert!(breaker.admit().is_ok());
}

proptest! {
    #[test]
    fn it_never_sticks(steps in prop::collection::vec((0..3_usize, 0..40_i64, any::<bool>()), 0..200)) {
        let (breaker, clock) = breaker();
        for (health, seconds, report) in steps {
            clock.advance(TimeDelta::seconds(seconds));
            match breaker.admit() {
                Ok(pass) if report => {
                    pass.report([ProviderHealth::Well, ProviderHealth::Failing, ProviderHealth::Silent][health]);
                }
                Ok(pass) => drop(pass),
                Err(until) => {
                    prop_assert!(until > clock.now());
                    prop_assert!(until <= clock.now() + TimeDelta::minutes(1));
                }
            }
        }
        clock.advance(TimeDelta::minutes(1));
        prop_assert!(breaker.admit().is_ok(), "nothing under way, and the longest wait over: somebody may try");
    }
}
