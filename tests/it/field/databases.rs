//! `DATABASE_URL`, `DATABASE_SCHEMA`, and databases that an application had first.

use std::time::Instant;

use carebell::{
    clock::Clock,
    config::Source,
    doctor::{self, Egress, Item},
};
use sqlx::{PgPool, Row};

use crate::{
    cli::carebell,
    support::{Process, QUICK, World, database, database_without_tables, not_checked},
};

/// Tables that an application may well have, with rows.
const APPLICATION: [&str; 7] = [
    "CREATE TABLE public.notifications (id int PRIMARY KEY, message text)",
    "CREATE TABLE public.preferences (user_id text, dark_mode boolean)",
    "CREATE TABLE public.schedules (id int)",
    "CREATE TABLE public.audit_log (id int)",
    "CREATE TABLE public._sqlx_migrations (version bigint PRIMARY KEY, description text, installed_on timestamptz, \
     success boolean, checksum bytea, execution_time bigint)",
    "INSERT INTO public._sqlx_migrations VALUES (20260101000000, 'theirs', now(), true, '\\x00', 1)",
    "INSERT INTO public.notifications VALUES (1, 'theirs')",
];

/// Tables, indexes and rows outside of Carebell's schema.
async fn outside(db: &PgPool) -> String {
    let names = "SELECT string_agg(relname, ' ' ORDER BY relname) FROM pg_class \
                 WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'i')";
    let names: Option<String> = sqlx::query_scalar(names).fetch_one(db).await.unwrap();
    let row =
        sqlx::query("SELECT (SELECT count(*) FROM public._sqlx_migrations), (SELECT count(*) FROM public.audit_log)");
    let row = row.fetch_one(db).await.unwrap();
    format!("{} {} {}", names.unwrap_or_default(), row.get::<i64, _>(0), row.get::<i64, _>(1))
}

#[tokio::test]
async fn carebell_shares_the_database_of_an_application_with_tables_of_the_same_names() {
    let url = database_without_tables().await;
    let db = PgPool::connect(&url).await.unwrap();
    for statement in APPLICATION {
        sqlx::query(sqlx::AssertSqlSafe(statement)).execute(&db).await.unwrap();
    }
    let world = World::on(database().await, QUICK).await;
    let theirs = [("DATABASE_URL", url.as_str())];

    // Before it is migrated, nothing touches the application's tables, which have the right names.
    let by = ["schedules", "pause", "x"];
    for args in [&["jobs", "show", "x"][..], &["schedules", "list"], &["jobs", "delayed"], &by] {
        let (well, said, error) = carebell(&world, args, &theirs).await;
        assert!(!well && said.is_empty() && error.contains("run `carebell migrate`"), "{args:?}: {said}{error}");
    }
    let before = outside(&db).await;
    let (well, said, error) = carebell(&world, &["migrate"], &theirs).await;
    assert!(well && said.contains("up to date"), "{said}{error}");
    assert_eq!(outside(&db).await, before);

    let (well, said, error) = carebell(&world, &["migrate", "--care-tables"], &theirs).await;
    assert!(well, "{said}{error}");
    let users: String = sqlx::query_scalar("SELECT to_regclass('public.users')::text").fetch_one(&db).await.unwrap();
    assert_eq!(users, "users", "care tables are the application's");
    let before = outside(&db).await;

    // The seed writes through the search path that the documentation names.
    let world = World::on(url.clone(), QUICK).await;
    let mut worker = Process::worker(&world, &[]);
    worker.ready().await;
    world.remind("beside-theirs").await;
    world.everyone_has_it_once("beside-theirs").await;
    assert_eq!(worker.terminate().await.code(), Some(0));
    assert_eq!(outside(&db).await, before);
    let rows: i64 = sqlx::query_scalar("SELECT count(*) FROM carebell.notifications").fetch_one(&db).await.unwrap();
    assert_eq!(rows, 4);
    let kept: String = sqlx::query_scalar("SELECT message FROM public.notifications").fetch_one(&db).await.unwrap();
    assert_eq!(kept, "theirs");
}

#[tokio::test]
async fn a_table_in_the_way_is_named_and_another_schema_helps() {
    let world = World::new().await;
    let url = database_without_tables().await;
    let db = PgPool::connect(&url).await.unwrap();
    for statement in ["CREATE SCHEMA carebell", "CREATE TABLE carebell.preferences (user_id text)"] {
        sqlx::query(sqlx::AssertSqlSafe(statement)).execute(&db).await.unwrap();
    }
    let theirs = [("DATABASE_URL", url.as_str())];
    let (well, _, error) = carebell(&world, &["migrate"], &theirs).await;
    assert!(!well, "{error}");
    for part in ["schema `carebell`", "table `preferences`", "DATABASE_SCHEMA", "SET SCHEMA"] {
        assert!(error.contains(part), "{part}: {error}");
    }
    let other = [("DATABASE_URL", url.as_str()), ("DATABASE_SCHEMA", "bell_2")];
    let (well, said, error) = carebell(&world, &["migrate"], &other).await;
    assert!(well, "{said}{error}");
    let (well, said, error) = carebell(&world, &["schedules", "list", "--json"], &other).await;
    assert!(well && said.contains("maintenance"), "{said}{error}");
    let tables: i64 = sqlx::query_scalar("SELECT count(*) FROM pg_tables WHERE schemaname = 'carebell'")
        .fetch_one(&db)
        .await
        .unwrap();
    assert_eq!(tables, 1);
    let (well, _, error) = carebell(&world, &["migrate"], &[("DATABASE_SCHEMA", "Bell")]).await;
    assert!(!well && error.contains("DATABASE_SCHEMA is malformed"), "{error}");
}

#[tokio::test]
async fn a_role_that_may_not_create_the_schema_is_told_what_to_ask_for() {
    let world = World::new().await;
    let url = database_without_tables().await;
    let name = format!("nobody_of_{}", url.rsplit('/').next().unwrap());
    world.sql(&format!("CREATE ROLE {name} LOGIN")).await;
    let as_role = url.replace("postgres@", &format!("{name}@"));
    let (well, _, error) = carebell(&world, &["migrate"], &[("DATABASE_URL", &as_role)]).await;
    assert!(!well && error.contains("CREATE SCHEMA carebell AUTHORIZATION"), "{error}");
    let db = PgPool::connect(&url).await.unwrap();
    let grant = format!("CREATE SCHEMA carebell AUTHORIZATION {name}");
    sqlx::query(sqlx::AssertSqlSafe(grant)).execute(&db).await.unwrap();
    let (well, said, error) = carebell(&world, &["migrate"], &[("DATABASE_URL", &as_role)]).await;
    assert!(well, "{said}{error}");
    for statement in [format!("DROP OWNED BY {name}"), format!("DROP ROLE {name}")] {
        sqlx::query(sqlx::AssertSqlSafe(statement)).execute(&db).await.unwrap();
    }
}

/// The search path passes over a schema that a role may not use, and would find the application's tables.
#[tokio::test]
async fn a_role_that_may_not_use_the_schema_touches_nothing() {
    let world = World::new().await;
    let url = database_without_tables().await;
    let db = PgPool::connect(&url).await.unwrap();
    let name = format!("guest_of_{}", url.rsplit('/').next().unwrap());
    for statement in APPLICATION.iter().map(|statement| (*statement).to_owned()).chain([
        "CREATE SCHEMA carebell".to_owned(),
        format!("CREATE ROLE {name} LOGIN"),
        format!("GRANT ALL ON ALL TABLES IN SCHEMA public TO {name}"),
        format!("GRANT CREATE, USAGE ON SCHEMA public TO {name}"),
    ]) {
        sqlx::query(sqlx::AssertSqlSafe(statement)).execute(&db).await.unwrap();
    }
    let before = outside(&db).await;
    let as_role = url.replace("postgres@", &format!("{name}@"));
    let guest = [("DATABASE_URL", as_role.as_str())];
    let (well, _, error) = carebell(&world, &["migrate"], &guest).await;
    assert!(!well && error.contains("may not use the schema `carebell`"), "{error}");
    assert!(carebell(&world, &["migrate"], &[("DATABASE_URL", &url)]).await.0);
    for args in [&["schedules", "pause", "carebell.prune"][..], &["jobs", "show", "x"], &["jobs", "cancel", "x"]] {
        let (well, _, error) = carebell(&world, args, &guest).await;
        assert!(!well && error.contains("GRANT USAGE ON SCHEMA carebell"), "{args:?}: {error}");
    }
    assert_eq!(outside(&db).await, before);
    for statement in [format!("DROP OWNED BY {name}"), format!("DROP ROLE {name}")] {
        sqlx::query(sqlx::AssertSqlSafe(statement)).execute(&db).await.unwrap();
    }
}

#[tokio::test]
async fn tables_of_an_earlier_build_are_found_and_not_left_behind() {
    let world = World::new().await;
    let url = database_without_tables().await;
    let at = |schema| [("DATABASE_URL", url.as_str()), ("DATABASE_SCHEMA", schema)];
    let (well, said, error) = carebell(&world, &["migrate"], &at("public")).await;
    assert!(well, "{said}{error}");
    // Two installations share a database.
    let (well, said, error) = carebell(&world, &["migrate"], &at("other")).await;
    assert!(well, "{said}{error}");
    // As an earlier build left them.
    sqlx::query("DELETE FROM public._sqlx_migrations WHERE version >= 5")
        .execute(&PgPool::connect(&url).await.unwrap())
        .await
        .unwrap();
    for undone in [
        "ALTER TABLE public.push_subscriptions DROP COLUMN problem, DROP COLUMN problem_of",
        "DROP TABLE public.pauses, public.operations, public.admin_sessions, public.admin_tokens, public.gateway_jobs, \
         public.gateway_tokens, public.outcome_counts, public.workers, public.unsent_deliveries",
        "ALTER TABLE public.job_runs DROP COLUMN lane",
        "ALTER TABLE public.scheduler_state DROP COLUMN journal_seq",
        "DROP INDEX public.deliveries_delivered, public.job_runs_not_done, public.job_runs_rare_kind, \
         public.job_runs_application, public.delayed_jobs_newest, public.audit_log_operation",
    ] {
        sqlx::query(undone).execute(&PgPool::connect(&url).await.unwrap()).await.unwrap();
    }
    let (well, _, error) = carebell(&world, &["migrate"], &at("carebell")).await;
    assert!(!well && error.contains("Carebell's tables are in the schema `public`"), "{error}");
    assert!(error.contains("ALTER TABLE public.<name> SET SCHEMA carebell") && error.contains("deliveries"), "{error}");
    let db = PgPool::connect(&url).await.unwrap();
    let tables: Vec<String> = sqlx::query_scalar("SELECT tablename::text FROM pg_tables WHERE schemaname = 'public'")
        .fetch_all(&db)
        .await
        .unwrap();
    for table in tables {
        let moves = format!("ALTER TABLE public.{table} SET SCHEMA carebell");
        sqlx::query(sqlx::AssertSqlSafe(moves)).execute(&db).await.unwrap();
    }
    let (well, said, error) = carebell(&world, &["migrate"], &at("carebell")).await;
    assert!(well, "{said}{error}");
}

#[tokio::test]
async fn mistakes_in_the_url_fail_doctor_by_name() {
    let world = World::new().await;
    let cases = [
        ("sslmode=bogus", "`sslmode`"),
        ("port=abc", "`port`"),
        ("connect_timeout=5", "`connect_timeout`"),
        ("target_session_attrs=read-write", "several hosts"),
    ];
    for (parameter, expected) in cases {
        let url = format!("{}?{parameter}", world.database_url);
        for args in [&["doctor"][..], &["doctor", "--offline"], &["migrate"]] {
            let (well, said, error) = carebell(&world, args, &[("DATABASE_URL", &url)]).await;
            assert!(!well, "{args:?} takes {parameter}");
            let text = format!("{said}{error}");
            assert!(text.contains("DATABASE_URL") && text.contains(expected), "{args:?} {parameter}: {text}");
        }
    }
}

#[tokio::test]
async fn a_refused_connection_is_named_within_a_second() {
    let world = World::new().await;
    let port = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap().port()
    };
    let database = format!("postgres://carebell:secret@127.0.0.1:{port}/care");
    let nats = format!("nats://carebell:secret@127.0.0.1:{port}");
    let nobody = [("DATABASE_URL", database.as_str()), ("NATS_URL", nats.as_str())];
    let body = r#"{"recipients": [{"userId": "ana"}], "title": "x"}"#;
    let commands: [&[&str]; 7] = [
        &["jobs", "show", "x"],
        &["jobs", "cancel", "x"],
        &["migrate"],
        &["schedules", "list"],
        &["publish", "notification", "--json", body],
        &["queues", "list"],
        &["streams", "check"],
    ];
    for args in commands {
        let since = Instant::now();
        let (well, _, error) = carebell(&world, args, &nobody).await;
        let took = since.elapsed();
        assert!(!well, "{args:?}");
        assert!(error.contains("refused") && error.contains(&format!("127.0.0.1:{port}")), "{args:?}: {error}");
        assert!(!error.contains("secret"), "{args:?}: {error}");
        // A process of a debug build takes its part, and neighbours theirs.
        assert!(took.as_secs() < 4, "{args:?} took {took:?}");
    }
}

/// Passes connections to `[::1]` on to this port. Returns its own.
async fn over_ipv6(to: u16) -> Option<u16> {
    let listener = tokio::net::TcpListener::bind("[::1]:0").await.ok()?;
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut near, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut far = tokio::net::TcpStream::connect(("127.0.0.1", to)).await.unwrap();
                drop(tokio::io::copy_bidirectional(&mut near, &mut far).await);
            });
        }
    });
    Some(port)
}

#[tokio::test]
async fn addresses_of_ipv6_are_connected_to() {
    let world = World::new().await;
    let port = world.database_url.rsplit(':').next().unwrap().split('/').next().unwrap();
    let (Some(of_database), Some(of_nats)) =
        (over_ipv6(port.parse().unwrap()).await, over_ipv6(world.nats.port()).await)
    else {
        return not_checked("this machine has no IPv6 loopback address");
    };
    let url = world.database_url.replace(&format!("127.0.0.1:{port}"), &format!("[::1]:{of_database}"));
    let (well, said, error) = carebell(&world, &["migrate"], &[("DATABASE_URL", &url)]).await;
    assert!(well, "{said}{error}");
    let url = format!("nats://[::1]:{of_nats}");
    let (well, said, error) = carebell(&world, &["streams", "check"], &[("NATS_URL", &url)]).await;
    assert!(well, "{said}{error}");
}

#[tokio::test]
async fn a_schema_that_lost_a_table_is_not_taken_for_whole() {
    let world = World::new().await;
    world.sql("ALTER SCHEMA carebell RENAME TO gone").await;
    world.sql("CREATE TABLE public.job_runs (job_id text)").await;
    let source = Source::of(world.environment());
    let checks = doctor::examine(&source, &Clock::system(), Egress::Offline).await;
    let schema = checks.iter().find(|check| check.item == Item::Schema).unwrap();
    assert!(schema.is_failure() && schema.words().contains("carebell migrate"), "{schema}");
}
