//! The console's server: who gets in, and what everybody is told who does not.

use reqwest::{
    Method, StatusCode,
    header::{AUTHORIZATION, COOKIE, LOCATION, RETRY_AFTER, WWW_AUTHENTICATE},
};
use serde_json::json;

use crate::{
    cli::carebell,
    support::{ADMIN_TOKEN, Console, Worker, World, answer, filled},
};

#[tokio::test]
async fn whoever_has_a_token_sees_the_way_of_a_job() {
    let world = World::new().await;
    let worker = Worker::start(&world);
    let console = Console::start(&world).await;
    world.remind("seen").await;
    world.everyone_has_it_once("seen").await;
    let token = console.token(&world, "ana", "viewer").await;
    let answer = console.api(Method::GET, "/jobs/seen", &token, None).await;
    assert_eq!((answer.status, &answer.body["root_id"]), (StatusCode::OK, &json!("seen")));
    let (_, shown, _) = carebell(&world, &["jobs", "show", "seen", "--json"], &[]).await;
    assert_eq!(answer.body, serde_json::from_str::<serde_json::Value>(&shown).unwrap());
    worker.stop().await;
}

#[tokio::test]
async fn without_a_token_that_is_good_nothing_is_shown() {
    let world = World::new().await;
    let console = Console::start(&world).await;
    let path = "/admin/api/v1/jobs/x";
    let nobody = answer(console.request(Method::GET, path)).await;
    assert_eq!(
        (nobody.status, nobody.body["type"].as_str()),
        (StatusCode::UNAUTHORIZED, Some("urn:carebell:problem:unauthorized"))
    );
    assert_eq!(nobody.headers["content-type"], "application/problem+json");
    assert!(nobody.headers.contains_key(WWW_AUTHENTICATE));

    let short = console.token(&world, "short", "viewer").await;
    let revoked = console.token(&world, "revoked", "viewer").await;
    world.sql("UPDATE admin_tokens SET expires_at = now() WHERE name = 'short'").await;
    assert!(carebell(&world, &["tokens", "revoke", "revoked"], &[]).await.0);
    for bad in ["", "cbl_none", &short, &revoked] {
        assert_eq!(console.api(Method::GET, "/jobs/x", bad, None).await.status, StatusCode::UNAUTHORIZED, "{bad}");
    }
    let basic = answer(console.request(Method::GET, path).header(AUTHORIZATION, "Basic eDp5")).await;
    assert_eq!(basic.status, StatusCode::UNAUTHORIZED);
    // Six failures so far.
    for _ in 0..5 {
        console.api(Method::GET, "/jobs/x", "cbl_guess", None).await;
    }
    let limited = console.get("/jobs/x").await;
    assert_eq!(limited.status, StatusCode::TOO_MANY_REQUESTS, "even with a good one, from this address");
    assert!(limited.headers[RETRY_AFTER].to_str().unwrap().parse::<u64>().unwrap() <= 301);
    let kept = world.count("SELECT count(*) FROM admin_tokens WHERE encode(hash, 'escape') LIKE '%cbl%'").await;
    assert_eq!(kept, 0, "only hashes are kept");
}

#[tokio::test]
async fn a_browser_signs_in_and_out() {
    let world = World::new().await;
    let console = Console::start(&world).await;
    let away = console.request(Method::GET, "/console?x=1").send().await.unwrap();
    assert_eq!(
        (away.status(), away.headers()[LOCATION].to_str().unwrap()),
        (StatusCode::SEE_OTHER, "/console/sign-in?next=%2Fconsole%3Fx%3D1")
    );
    assert!(away.headers()["content-security-policy"].to_str().unwrap().starts_with("default-src 'none'"));
    let (status, form) = console.page("/console/sign-in?next=%22%3E%3Cb%3E", "").await;
    assert!(status == StatusCode::OK && form.contains("&quot;&gt;&lt;b&gt;") && !form.contains("<b>"), "{form}");

    let cross = console.request(Method::POST, "/console/sign-in").header("Origin", "https://evil.example");
    assert_eq!(filled(cross, &[("token", ADMIN_TOKEN)]).send().await.unwrap().status(), StatusCode::FORBIDDEN);
    let wrong = console.submit("/console/sign-in", "", &[("token", "wrong")]).send().await.unwrap();
    assert_eq!(wrong.status(), StatusCode::UNAUTHORIZED);
    assert!(wrong.text().await.unwrap().contains("This token is not known"));

    let cookie = console.sign_in(ADMIN_TOKEN).await;
    let (status, page) = console.page("/console", &cookie).await;
    assert!(status == StatusCode::OK && page.contains("<h1>Overview</h1>"), "{page}");
    // Its cookie serves the API too, but no form of another site.
    let own = answer(console.request(Method::GET, "/admin/api/v1/jobs/none").header(COOKIE, &cookie)).await;
    assert_eq!(own.status, StatusCode::NOT_FOUND);
    let out = |site: &'static str| {
        console.request(Method::POST, "/console/sign-out").header(COOKIE, &cookie).header("Sec-Fetch-Site", site).send()
    };
    assert_eq!(out("cross-site").await.unwrap().status(), StatusCode::FORBIDDEN);
    assert_eq!(out("same-origin").await.unwrap().status(), StatusCode::SEE_OTHER);
    assert_eq!(console.page("/console", &cookie).await.0, StatusCode::SEE_OTHER);
}

#[tokio::test]
async fn a_missing_path_a_wrong_method_and_an_odd_id_are_each_told() {
    let world = World::new().await;
    let console = Console::start(&world).await;
    assert_eq!(console.get("/nothing").await.body["type"], "urn:carebell:problem:not-found");
    let method = console.api(Method::PATCH, "/jobs/x", ADMIN_TOKEN, None).await;
    assert_eq!((method.status, &method.headers["allow"]), (StatusCode::METHOD_NOT_ALLOWED, &"GET".parse().unwrap()));
    let odd = console.get("/jobs/%00%3Cscript%3E").await;
    assert_eq!((odd.status, &odd.body["errors"][0]["path"]), (StatusCode::UNPROCESSABLE_ENTITY, &json!("id")));
    assert_eq!(console.page("/console/nothing", "").await.0, StatusCode::NOT_FOUND);
}
