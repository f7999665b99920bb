use chrono::TimeDelta;
use tokio::time::Instant;

use super::{
    check::{Check, Item, some},
    clocks::{Asked, compare_clocks},
};
use crate::{
    clock::Clock,
    config::Source,
    store::{CommitRisk, Probe, ServerFacts, Store, StoreError},
};

const ALL: [Item; 6] = [
    Item::Database,
    Item::Schema,
    Item::CareTables,
    Item::Subscriptions,
    Item::DatabasePermissions,
    Item::DatabaseClock,
];

const MEND_DATABASE: &str = "check that Postgres is up, and that DATABASE_URL points to it";

pub(super) async fn examine(source: &Source, clock: &Clock) -> Vec<Check> {
    match source.database() {
        Ok(place) => checks(&Store::new(&place, 1), clock, true).await,
        Err(error) => ALL.map(|item| Check::not_checked(item, format!("{} is not valid", error.variable))).into(),
    }
}

/// Checks the database over its own connection.
pub async fn database(store: &Store, clock: &Clock) -> Vec<Check> {
    checks(store, clock, false).await
}

/// `reads_rows`: also looks at each row of the care tables, which a worker does when it has started.
async fn checks(store: &Store, clock: &Clock, reads_rows: bool) -> Vec<Check> {
    let unreachable = |error: StoreError| {
        let mut checks = vec![Check::fail(Item::Database, format!("DATABASE_URL: {error}"), MEND_DATABASE)];
        checks.extend(ALL[1..].iter().map(|item| Check::not_checked(*item, "the database is not reachable")));
        checks
    };
    match store.probe().await {
        Ok(mut probe) => look(&mut probe, store, clock, reads_rows).await.unwrap_or_else(unreachable),
        Err(error) => unreachable(error),
    }
}

async fn look(probe: &mut Probe, store: &Store, clock: &Clock, reads_rows: bool) -> Result<Vec<Check>, StoreError> {
    let facts = probe.facts().await?;
    let asked = clock.now();
    let since = Instant::now();
    let theirs = probe.now().await?;
    let took = TimeDelta::from_std(since.elapsed()).unwrap_or_default();
    let mut checks = vec![compare_clocks(Item::DatabaseClock, Asked { at: asked, took }, theirs)];

    checks.push(server(&facts, store.is_exposed()));
    let lacks = probe.care_tables().await?;
    let mut denied = probe.missing_privileges().await?;
    checks.push(match probe.schema().await {
        Ok(version) => Check::ok(Item::Schema, format!("version {version}")),
        Err(StoreError::Fault(what)) => Check::fail(Item::Schema, what, "run `carebell migrate`"),
        Err(error) if denied.is_empty() => return Err(error),
        Err(_) => Check::not_checked(Item::Schema, "the role may not read it"),
    });
    checks.push(if lacks.care.is_empty() {
        care_tables(probe, reads_rows).await
    } else {
        let advice = "create views with these names over your tables (see migrations/care.sql), or run `carebell \
             migrate --care-tables`";
        Check::fail(Item::CareTables, some(&lacks.care), advice)
    });
    // Without the schema or the privilege, which are told of here.
    checks.push(match probe.malformed_subscriptions().await {
        Ok(None) => Check::ok(Item::Subscriptions, "none is malformed, as far as is known"),
        Ok(Some((count, first))) => Check::warn(
            Item::Subscriptions,
            format!("malformed, and passed over: {count}. {first}"),
            "have the browser subscribe again; a row with another endpoint or keys is tried anew",
        ),
        Err(_) => Check::not_checked(Item::Subscriptions, "the table cannot be read"),
    });
    denied.extend(lacks.unreadable.into_iter().map(|table| format!("SELECT on {table}")));
    checks.push(if denied.is_empty() {
        Check::ok(Item::DatabasePermissions, "the role has the privileges of a worker")
    } else {
        let what = format!("the role of DATABASE_URL lacks {}", some(&denied));
        Check::fail(Item::DatabasePermissions, what, "GRANT it, or connect as the owner of the tables")
    });
    Ok(checks)
}

/// Tables that have all columns. Without the privileges to look closer it finds nothing, which is told of elsewhere.
async fn care_tables(probe: &mut Probe, reads_rows: bool) -> Check {
    if !reads_rows {
        return Check::ok(Item::CareTables, "all required columns exist");
    }
    let odd = probe.odd_rows().await.unwrap_or_default();
    if !odd.is_empty() {
        let rows: i64 = odd.iter().map(|odd| odd.count).sum();
        let first: Vec<String> = odd.into_iter().map(|odd| format!("{} (rows: {})", odd.detail, odd.count)).collect();
        let what = format!("rows that are not read as they are written: {rows}. {}", some(&first));
        return Check::warn(Item::CareTables, what, "correct the rows, or the views that offer them");
    }
    let slow = probe.without_index().await.unwrap_or_default();
    if !slow.is_empty() {
        let advice = "create the index, on the expression that the view has (docs/OPERATIONS.md#care-tables-and-views)";
        return Check::warn(Item::CareTables, some(&slow), advice);
    }
    Check::ok(Item::CareTables, "all required columns exist")
}

fn server(facts: &ServerFacts, is_exposed: bool) -> Check {
    if facts.is_read_only {
        let advice = "point DATABASE_URL to the primary, and turn default_transaction_read_only off";
        return Check::fail(Item::Database, "the server is read only, perhaps a standby", advice);
    }
    let exposed = is_exposed
        .then_some(("not encrypted", "let the server offer TLS, and take sslmode=disable out of DATABASE_URL"));
    let risky = facts.risk.map(|risk| match risk {
        CommitRisk::NotFlushed => (
            "synchronous_commit is off, so a crash loses the last commits",
            "turn synchronous_commit on for the role of DATABASE_URL",
        ),
        CommitRisk::NotAwaited => (
            "synchronous_commit is local, so a failover loses the last commits",
            "turn synchronous_commit on for the role of DATABASE_URL",
        ),
        CommitRisk::AsynchronousStandbys => (
            "its standbys are asynchronous, so a failover loses the last commits",
            "name those that may take over in synchronous_standby_names",
        ),
    });
    let mut what = format!("PostgreSQL {}", facts.version);
    let mut advice = Vec::new();
    for (finding, remedy) in exposed.into_iter().chain(risky) {
        what = format!("{what}, {finding}");
        advice.push(remedy);
    }
    if advice.is_empty() {
        Check::ok(Item::Database, what)
    } else {
        Check::warn(Item::Database, what, advice.join("; "))
    }
}
