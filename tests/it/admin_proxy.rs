//! Signing in to the console by headers of a trusted proxy.

use reqwest::{Method, RequestBuilder, StatusCode, header::COOKIE};

use crate::support::{ADMIN_TOKEN, Console, World, answer, filled};

const HEADERS: [(&str, &str); 3] = [
    ("ADMIN_PROXY_USER_HEADER", "X-Forwarded-User"),
    ("ADMIN_PROXY_ROLES_HEADER", "X-Forwarded-Groups"),
    ("ADMIN_PROXY_ROLES", "oncall=operator,care=viewer"),
];

async fn console(world: &World, proxies: &str) -> Console {
    Console::with(world, &[&HEADERS[..], &[("ADMIN_TRUSTED_PROXIES", proxies)]].concat()).await
}

fn with(request: RequestBuilder, headers: &[(&str, &str)]) -> RequestBuilder {
    headers.iter().fold(request, |request, (name, value)| request.header(*name, *value))
}

/// Headers, the status, and what the page says.
type Case<'a> = (&'a [(&'a str, &'a str)], StatusCode, &'a str);

/// The overview, as a proxy asks for it: 303 leads to the sign-in page.
async fn overview(console: &Console, headers: &[(&str, &str)]) -> (StatusCode, String) {
    let response = with(console.request(Method::GET, "/console"), headers).send().await.unwrap();
    (response.status(), response.text().await.unwrap())
}

#[tokio::test]
async fn whoever_signed_in_at_a_trusted_proxy_is_known() {
    let world = World::new().await;
    let console = console(&world, "10.0.0.7,127.0.0.0/8").await;
    let ana = [("x-FORWARDED-user", "ana@example.org"), ("X-Forwarded-Groups", "family|oncall,care")];
    let (status, page) = overview(&console, &ana).await;
    assert!(status == StatusCode::OK && page.contains("proxy:ana@example.org, operator"), "{page}");
    assert!(!page.contains("Sign out"), "the proxy would sign them in again");

    // A form of another site is refused: the proxy adds its headers to that too.
    let pause = |site: &'static str| {
        let request = console.request(Method::POST, "/console/queues/notification_bulk/pause");
        filled(with(request, &ana).header("Sec-Fetch-Site", site), &[("reason", "tried"), ("hours", "")]).send()
    };
    assert_eq!(pause("cross-site").await.unwrap().status(), StatusCode::FORBIDDEN);
    let api = with(console.request(Method::POST, "/admin/api/v1/queues/notification_bulk/resume"), &ana);
    assert_eq!(answer(api).await.status, StatusCode::FORBIDDEN, "nor by the API");
    assert_eq!(pause("same-origin").await.unwrap().status(), StatusCode::SEE_OTHER);
    let acts = console.get("/audit?actor=proxy:ana@example.org").await;
    assert_eq!(acts.body["items"][0]["action"], "queue.paused");

    // Not the session of whoever used this browser before.
    let cookie = console.sign_in(ADMIN_TOKEN).await;
    let vera = [("X-Forwarded-User", "vera"), ("X-Forwarded-Groups", "care"), (COOKIE.as_str(), &*cookie)];
    assert!(overview(&console, &vera).await.1.contains("proxy:vera, viewer"));
    let audit = with(console.request(Method::GET, "/admin/api/v1/audit"), &vera);
    assert_eq!(answer(audit).await.status, StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn headers_from_elsewhere_are_ignored_and_told_once() {
    let world = World::new().await;
    let console = console(&world, "10.0.0.7").await;
    let forged = [("X-Forwarded-User", "ana"), ("X-Forwarded-Groups", "oncall"), ("X-Forwarded-For", "10.0.0.7")];
    for _ in 0..3 {
        assert_eq!(overview(&console, &forged).await.0, StatusCode::SEE_OTHER);
        let api = with(console.request(Method::GET, "/admin/api/v1/queues"), &forged);
        assert_eq!(answer(api).await.status, StatusCode::UNAUTHORIZED);
    }
    let log = console.output();
    assert_eq!(log.matches("ADMIN_TRUSTED_PROXIES does not list").count(), 1, "{log}");
    assert!(!log.contains("ana"), "{log}");
    let own = with(console.request(Method::GET, "/admin/api/v1/jobs/any"), &forged).bearer_auth(ADMIN_TOKEN);
    assert_eq!(answer(own).await.status, StatusCode::NOT_FOUND, "a token goes on");

    // Nobody is believed unless it is configured.
    let plain = Console::with(&world, &[("ADMIN_TRUSTED_PROXIES", "127.0.0.1")]).await;
    assert_eq!(overview(&plain, &forged).await.0, StatusCode::SEE_OTHER);
}

#[tokio::test]
async fn headers_that_are_ambiguous_or_name_no_role_let_nobody_in() {
    let world = World::new().await;
    let console = console(&world, "127.0.0.1").await;
    let (user, groups) = ("X-Forwarded-User", "X-Forwarded-Groups");
    let long = "x".repeat(101);
    let cases: [Case<'_>; 9] = [
        (&[(user, "ana"), ("x-forwarded-user", "eve"), (groups, "oncall")], StatusCode::UNPROCESSABLE_ENTITY, "once"),
        (
            &[(user, "ana"), (groups, "care"), ("X-FORWARDED-GROUPS", "oncall")],
            StatusCode::UNPROCESSABLE_ENTITY,
            "once",
        ),
        (&[(user, "an\ta"), (groups, "oncall")], StatusCode::UNPROCESSABLE_ENTITY, "expected text"),
        (&[(user, &long), (groups, "oncall")], StatusCode::UNPROCESSABLE_ENTITY, "at most 100"),
        (&[(user, "ana"), (groups, "family")], StatusCode::FORBIDDEN, "its header x-forwarded-groups"),
        (&[(user, "ana")], StatusCode::FORBIDDEN, "its header x-forwarded-groups"),
        (&[(user, " "), (groups, "oncall")], StatusCode::SEE_OTHER, ""),
        (&[(groups, "oncall")], StatusCode::SEE_OTHER, ""),
        (&[("X_Forwarded_User", "ana"), (groups, "oncall")], StatusCode::SEE_OTHER, ""),
    ];
    for (headers, expected, why) in cases {
        let (status, page) = overview(&console, headers).await;
        assert!(status == expected && page.contains(why) && !page.contains("family"), "{headers:?}: {status} {page}");
    }
}
