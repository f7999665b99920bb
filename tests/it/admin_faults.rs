//! The console while a server is away, and behind a proxy.

use carebell::admin::access::Role;
use reqwest::{
    Method, StatusCode,
    header::{HeaderName, RETRY_AFTER},
};
use serde_json::json;

use crate::support::{Console, QUICK, World, own_postgres};

const FORWARDED: HeaderName = HeaderName::from_static("x-forwarded-for");

#[tokio::test]
async fn a_database_that_is_away_is_told_and_its_return_noticed() {
    let (mut postgres, _directory) = own_postgres().await;
    let world = World::on(postgres.url("postgres"), QUICK).await;
    let console = Console::start(&world).await;
    let token = console.token("ana", Role::Viewer).await;
    let cookie = console.sign_in(&token).await;
    postgres.stop().await;
    let away = console.api(Method::GET, "/jobs/any", &token, None).await;
    assert_eq!(
        (away.status, &away.body["type"]),
        (StatusCode::SERVICE_UNAVAILABLE, &json!("urn:carebell:problem:unavailable"))
    );
    assert!(away.headers.contains_key(RETRY_AFTER));
    let (status, page) = console.page("/console", &cookie).await;
    assert!(status == StatusCode::SERVICE_UNAVAILABLE && page.contains("the database"), "{page}");
    assert_eq!(console.page("/console/sign-in", "").await.0, StatusCode::OK);

    postgres.start_again().await.unwrap();
    let returned = async || {
        let status = console.api(Method::GET, "/jobs/any", &token, None).await.status;
        (status == StatusCode::NOT_FOUND).then_some(())
    };
    world.eventually("the console reaches the database again", returned).await;
    assert_eq!(console.page("/console", &cookie).await.0, StatusCode::OK, "the session goes on");
}

#[tokio::test]
async fn a_guesser_behind_a_trusted_proxy_is_stopped_alone() {
    let world = World::new().await;
    let console = Console::with(&world, &[("ADMIN_TRUSTED_PROXIES", "127.0.0.1")]).await;
    let guess = async |from: &str| {
        let request = console.request(Method::GET, "/admin/api/v1/jobs/any").bearer_auth("guess");
        request.header(FORWARDED, from).send().await.unwrap().status()
    };
    for _ in 0..10 {
        assert_eq!(guess("10.0.0.1").await, StatusCode::UNAUTHORIZED);
    }
    for same in ["10.0.0.1", "10.0.0.9, 10.0.0.1"] {
        assert_eq!(guess(same).await, StatusCode::TOO_MANY_REQUESTS, "only the proxy's own word counts: {same}");
    }
    assert_eq!(guess("10.0.0.2").await, StatusCode::UNAUTHORIZED);
    // Some proxies add a header of their own below that of the browser.
    let request = console.request(Method::GET, "/admin/api/v1/jobs/any").bearer_auth("guess");
    let both = request.header(FORWARDED, "10.0.0.9").header(FORWARDED, "10.0.0.1").send().await.unwrap();
    assert_eq!(both.status(), StatusCode::TOO_MANY_REQUESTS);

    let other = Console::start(&world).await;
    for number in 0..11 {
        let request = other.request(Method::GET, "/admin/api/v1/jobs/any").bearer_auth("guess");
        let answer = request.header(FORWARDED, format!("10.0.0.{number}")).send().await.unwrap().status();
        let expected = if number < 10 { StatusCode::UNAUTHORIZED } else { StatusCode::TOO_MANY_REQUESTS };
        assert_eq!(answer, expected, "nobody else's headers are believed");
    }
}
