//! Strikes at workers and servers, one after the other.

use std::time::Duration;

use async_nats::jetstream;
use carebell::dev::nats::NatsServer;
use tokio::time::{Instant, sleep, sleep_until};

use super::{
    database::Database,
    faults::{Blow, Fault, Planned, Sort, Target},
    fleet::Fleet,
};
use crate::support::{Cluster, STREAMS, utc_now};

/// One server, or three that are one.
pub enum Nats<'a> {
    One(&'a mut NatsServer),
    Cluster(&'a mut Cluster, &'a jetstream::Context),
}

pub struct Victims<'a> {
    pub nats: Nats<'a>,
    pub postgres: &'a mut Database,
    pub fleet: &'a mut Fleet,
}

pub async fn strike(planned: &[Planned], start: Instant, mut victims: Victims<'_>, say: fn(&str)) -> Vec<Fault> {
    let mut faults = Vec::new();
    for kill in planned {
        sleep_until(start + kill.after).await;
        let from = utc_now();
        let (target, outage) = victims.strike(kill).await;
        let fault = Fault { target, from, until: utc_now(), outage };
        let at = start.elapsed().as_secs_f64();
        say(&format!("{at:6.2} s: struck {target:?} ({:?}), {} ms", kill.target, fault.millis()));
        faults.push(fault);
        // The next may need a majority again, and a standby.
        match (kill.target, &victims.nats) {
            (Sort::Node(_), Nats::Cluster(cluster, context)) => cluster.is_whole(context).await,
            (Sort::Failover, _) => victims.postgres.renew().await,
            _ => {}
        }
    }
    faults
}

impl Victims<'_> {
    /// Answers who was hit, and whether nobody could work meanwhile.
    async fn strike(&mut self, kill: &Planned) -> (Target, bool) {
        match (kill.target, &mut self.nats) {
            (Sort::Worker, _) => (Target::Worker(self.fleet.kill(kill.which).await), false),
            (Sort::Nats, Nats::One(nats)) => {
                nats.kill().await;
                sleep(kill.away).await;
                nats.start_again().await.unwrap();
                (Target::Nats, true)
            }
            (Sort::Node(blow), Nats::Cluster(cluster, context)) => {
                (Target::Nats, strike_nodes(blow, kill, cluster, context).await)
            }
            (Sort::Postgres, _) => {
                let server = &mut self.postgres.primary;
                if kill.hard {
                    server.kill().await;
                } else {
                    server.stop().await;
                }
                sleep(kill.away).await;
                server.start_again().await.unwrap();
                (Target::Postgres, true)
            }
            (Sort::Failover, _) => {
                self.postgres.fail_over().await;
                (Target::Postgres, true)
            }
            (sort, _) => panic!("{sort:?} was drawn for other servers"),
        }
    }
}

/// Whether no majority was left.
async fn strike_nodes(blow: Blow, kill: &Planned, cluster: &mut Cluster, context: &jetstream::Context) -> bool {
    let size = cluster.size();
    let any = kill.which % size;
    let victims = match blow {
        Blow::Kill | Blow::Pause => vec![any],
        Blow::KillMetaLeader => vec![cluster.meta_leader().await.unwrap_or(any)],
        Blow::KillStreamLeader => {
            let stream = STREAMS[kill.which % STREAMS.len()];
            vec![cluster.leader_of(context, stream).await.unwrap_or(any)]
        }
        Blow::KillTwo => vec![any, (any + 1) % size],
        Blow::KillAll | Blow::Roll => (0..size).collect(),
    };
    match blow {
        Blow::Pause => {
            cluster.freeze(any);
            sleep(kill.away.max(Duration::from_secs(1))).await;
            cluster.thaw(any);
        }
        Blow::Roll => {
            for node in victims {
                cluster.stop(node).await;
                cluster.start_again(node).await;
                cluster.is_whole(context).await;
            }
        }
        _ => {
            for node in &victims {
                cluster.kill(*node).await;
            }
            sleep(kill.away).await;
            for node in &victims {
                cluster.start_again(*node).await;
            }
            if victims.len() > 1 {
                cluster.has_leaders(context).await;
                return true;
            }
        }
    }
    false
}
