//! Signing in to the console at a provider (`OpenID` Connect): each part of the proof is checked.

use std::time::Duration;

use reqwest::{
    Method, Response, StatusCode,
    header::{COOKIE, LOCATION, RETRY_AFTER, SET_COOKIE},
};
use serde_json::{Value, json};
use url::Url;

use crate::{
    cli::carebell,
    support::{
        Browser, Console, Settings, World,
        oidc::{Instead, Provider, Signing},
    },
};

const ENTER: &str = "\u{e007}";
const DISCOVERY: &str = "/.well-known/openid-configuration";

async fn console(world: &World, provider: &Provider, more: &[(&str, &str)]) -> Console {
    console_by(&["admin"], world, provider, more).await
}

async fn console_by(command: &[&str], world: &World, provider: &Provider, more: &[(&str, &str)]) -> Console {
    let variables = provider.variables();
    let variables = variables.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    Console::by(command, world, &variables.chain(more.iter().copied()).collect::<Vec<_>>()).await
}

fn location(response: &Response) -> &str {
    response.headers()[LOCATION].to_str().unwrap()
}

fn cookies(response: &Response) -> Vec<&str> {
    response.headers().get_all(SET_COOKIE).iter().map(|value| value.to_str().unwrap()).collect()
}

/// A browser that begins: the address at the provider, and its cookie.
async fn begin(console: &Console) -> (String, String) {
    let begun = console.request(Method::GET, "/console/oidc?next=%2Fconsole%2Fqueues").send().await.unwrap();
    assert_eq!(begun.status(), StatusCode::SEE_OTHER);
    let cookie = cookies(&begun)[0].split(';').next().unwrap().to_owned();
    (location(&begun).to_owned(), cookie)
}

/// The browser comes back to this address.
async fn back(console: &Console, address: &str, cookie: &str) -> Response {
    let url = Url::parse(address).unwrap();
    let path = format!("{}?{}", url.path(), url.query().unwrap());
    console.request(Method::GET, &path).header(COOKIE, cookie).send().await.unwrap()
}

/// A whole sign-in.
async fn sign_in(console: &Console, provider: &Provider) -> Response {
    let (asked, cookie) = begin(console).await;
    back(console, &provider.sign_in(&asked), &cookie).await
}

/// The same from an address of its own, against which failures count.
async fn sign_in_from(console: &Console, provider: &Provider, number: usize) -> StatusCode {
    let (asked, cookie) = begin(console).await;
    let url = Url::parse(&provider.sign_in(&asked)).unwrap();
    let request = console.request(Method::GET, &format!("{}?{}", url.path(), url.query().unwrap()));
    let request = request.header(COOKIE, cookie).header("X-Forwarded-For", format!("10.0.1.{number}"));
    request.send().await.unwrap().status()
}

/// Nobody gets in: the status and the page.
async fn refused(console: &Console, provider: &Provider) -> (StatusCode, String) {
    let response = sign_in(console, provider).await;
    assert!(!cookies(&response).iter().any(|cookie| cookie.starts_with("__Host-carebell=")), "{response:?}");
    (response.status(), response.text().await.unwrap())
}

#[tokio::test]
async fn somebody_with_a_mapped_group_signs_in_at_the_provider() {
    let world = World::new().await;
    let provider = Provider::start().await;
    let console = console(&world, &provider, &[]).await;
    let (_, page) = console.page("/console/sign-in?next=%2Fconsole%2Fqueues", "").await;
    assert!(page.contains("/console/oidc?next=%2Fconsole%2Fqueues") && page.contains("Sign in at 127.0.0.1"), "{page}");

    let (asked, begun) = begin(&console).await;
    assert!(asked.starts_with(&format!("{}/authorize?tenant=care&", provider.url)), "{asked}");
    let response = back(&console, &provider.sign_in(&asked), &begun).await;
    assert_eq!((response.status(), location(&response)), (StatusCode::SEE_OTHER, "/console/queues"));
    let set = cookies(&response);
    assert!(set[0].starts_with("__Host-carebell=cbl_") && set[0].ends_with("; Secure"), "{set:?}");
    assert!(set[1].starts_with("__Host-carebell_flow=; Path=/; Max-Age=0"), "{set:?}");
    let cookie = set[0].split(';').next().unwrap().to_owned();
    let (status, page) = console.page("/console", &cookie).await;
    assert!(status == StatusCode::OK && page.contains("oidc:ana, operator"), "{page}");

    let acts = console.get("/audit?actor=oidc:ana").await;
    let act = &acts.body["items"][0];
    assert_eq!(
        (&act["action"], &act["detail"]),
        (&json!("session.opened"), &json!({ "by": "oidc", "role": "operator", "subject": "248289761001" }))
    );
    let forged = console.request(Method::POST, "/console/sign-out").header(COOKIE, &cookie);
    let forged = forged.header("Sec-Fetch-Site", "cross-site").send().await.unwrap();
    assert_eq!(forged.status(), StatusCode::FORBIDDEN);
    let out = console.submit("/console/sign-out", &cookie, &[]).send().await.unwrap();
    assert_eq!(out.status(), StatusCode::SEE_OTHER);
    assert_eq!(console.page("/console", &cookie).await.0, StatusCode::SEE_OTHER);

    let response = sign_in(&console, &provider).await;
    let cookie = cookies(&response)[0].split(';').next().unwrap().to_owned();
    let (well, said, _) = carebell(&world, &["tokens", "revoke", "oidc:ana"], &[]).await;
    assert!(well && said.contains("sessions of oidc:ana are ended"), "{said}");
    assert_eq!(console.page("/console", &cookie).await.0, StatusCode::SEE_OTHER);
    assert!(!carebell(&world, &["tokens", "revoke", "oidc:ana"], &[]).await.0);
    assert_eq!(provider.set().faults, [""; 0]);
}

#[tokio::test]
async fn providers_differ_and_are_understood() {
    let world = World::new().await;
    let provider = Provider::start().await;
    let more = [("ADMIN_OIDC_ROLES_CLAIM", "/realm_access/roles"), ("ADMIN_OIDC_NAME_CLAIM", "email")];
    let console = console(&world, &provider, &more).await;
    provider.set().signing = Signing::Ec;
    provider.set().discovery = json!({
        "token_endpoint_auth_methods_supported": ["client_secret_post"],
        "authorization_response_iss_parameter_supported": null,
    });
    let name = async |claims: Value| {
        provider.set().claims = claims;
        let response = sign_in(&console, &provider).await;
        assert_eq!(response.status(), StatusCode::SEE_OTHER, "{}", response.text().await.unwrap());
        let acts = console.get("/audit?action=session.opened").await;
        acts.body["items"][0]["actor"].as_str().unwrap().to_owned()
    };
    let roles = json!({ "roles": ["offline", "care"] });
    let email = "ana@example.org";
    let aud = json!(["other", crate::support::oidc::CLIENT]);
    let of_several = json!({ "realm_access": roles, "email": email, "aud": aud, "azp": crate::support::oidc::CLIENT });
    assert_eq!(name(of_several).await, "oidc:ana@example.org");
    let unproven = json!({ "realm_access": { "roles": "care" }, "email": email, "email_verified": false });
    assert_eq!(name(unproven).await, "oidc:248289761001");
    provider.set().signing = Signing::NoKid;
    // Clocks differ by less than a minute.
    let now = crate::support::utc_now().timestamp();
    let late = json!({ "realm_access": roles, "exp": now - 30, "iat": now + 30, "email": "a\nb" });
    assert_eq!(name(late).await, "oidc:248289761001");
    assert_eq!(provider.asked(DISCOVERY), 1, "its settings are kept");
    assert_eq!(provider.set().faults, [""; 0]);
}

#[tokio::test]
async fn nobody_without_a_mapped_group_gets_in() {
    let world = World::new().await;
    let provider = Provider::start().await;
    let console = console(&world, &provider, &[]).await;
    for groups in
        [json!(["family"]), json!("oncall, care"), json!({ "oncall": true }), json!([["oncall"]]), json!(null)]
    {
        provider.set().claims = json!({ "groups": groups });
        let (status, page) = refused(&console, &provider).await;
        assert_eq!(status, StatusCode::FORBIDDEN, "{groups}");
        assert!(page.contains("the claim groups of your ID token") && !page.contains("family"), "{page}");
    }
    assert_eq!(world.count("SELECT count(*) FROM admin_sessions").await, 0);
    assert!(!console.output().contains("ana"), "no names in the log: {}", console.output());
}

#[tokio::test]
async fn an_id_token_that_proves_nothing_lets_nobody_in() {
    let world = World::new().await;
    let provider = Provider::start().await;
    // Failures count against an address: each case has one of its own.
    let console = console(&world, &provider, &[("ADMIN_TRUSTED_PROXIES", "127.0.0.1")]).await;
    let now = crate::support::utc_now().timestamp();
    let claims = [
        (json!({ "aud": "another" }), "`aud`"),
        (json!({ "aud": null }), "`aud`"),
        (json!({ "aud": [crate::support::oidc::CLIENT, "another"] }), "`azp`"),
        (json!({ "azp": "another" }), "`azp`"),
        (json!({ "iss": "https://another.example" }), "`iss`"),
        (json!({ "iss": format!("{}/", provider.url) }), "`iss`"),
        (json!({ "nonce": "of another sign-in" }), "`nonce`"),
        (json!({ "nonce": null }), "`nonce`"),
        (json!({ "exp": now - 61 }), "`exp`"),
        (json!({ "exp": null }), "`exp`"),
        (json!({ "exp": "never" }), "`exp`"),
        (json!({ "exp": -1 }), "`exp`"),
        (json!({ "nbf": now + 120 }), "`nbf`"),
        (json!({ "iat": now + 120 }), "`iat`"),
        (json!({ "sub": null }), "`sub`"),
        (json!({ "padding": "x".repeat(16 * 1024) }), "no ID token that can be read"),
    ];
    let signings = [
        (Signing::Nobody, "not known"),
        (Signing::PublicKeyAsSecret, "shared secret"),
        (Signing::OtherKey, "another way than its key is for"),
        (Signing::UnknownKid, "does not publish"),
        (Signing::Changed, "does not hold"),
    ];
    let claims = claims.map(|(claims, why)| (Signing::Rsa, claims, why));
    let signings = signings.map(|(signing, why)| (signing, json!({}), why));
    for (number, (signing, claims, why)) in claims.into_iter().chain(signings).enumerate() {
        (provider.set().signing, provider.set().claims) = (signing, claims.clone());
        let (asked, cookie) = begin(&console).await;
        let url = Url::parse(&provider.sign_in(&asked)).unwrap();
        let request = console.request(Method::GET, &format!("{}?{}", url.path(), url.query().unwrap()));
        let request = request.header(COOKIE, cookie).header("X-Forwarded-For", format!("10.0.0.{number}"));
        let response = request.send().await.unwrap();
        assert!(!cookies(&response).iter().any(|cookie| cookie.starts_with("__Host-carebell=")));
        let (status, page) = (response.status(), response.text().await.unwrap());
        let expected = if why.contains("read") { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::UNAUTHORIZED };
        assert!(status == expected && page.contains(why), "{signing:?} {claims} {why}: {status} {page}");
    }
    assert_eq!(world.count("SELECT count(*) FROM admin_sessions").await, 0);
}

#[tokio::test]
async fn an_answer_is_good_once_and_for_the_browser_that_began() {
    let world = World::new().await;
    let provider = Provider::start().await;
    // Even of a provider that takes a code twice.
    provider.set().reuses_codes = true;
    let console = console(&world, &provider, &[]).await;
    let (asked, cookie) = begin(&console).await;
    let answer = provider.sign_in(&asked);
    let (_, other) = begin(&console).await;
    let of_another = ["", other.as_str(), "__Host-carebell_flow=x", "carebell_flow=x.%2Fconsole"];
    for cookie in of_another {
        let response = back(&console, &answer, cookie).await;
        assert_eq!(response.status(), StatusCode::UNAUTHORIZED, "{cookie}");
    }
    let with = |name: &str, value: Option<&str>| {
        let mut url = Url::parse(&answer).unwrap();
        let rest: Vec<_> = url.query_pairs().into_owned().filter(|(known, _)| known != name).collect();
        let added = value.map(|value| (name.to_owned(), value.to_owned()));
        url.query_pairs_mut().clear().extend_pairs(rest.into_iter().chain(added));
        String::from(url)
    };
    for (address, why) in [
        (with("iss", Some("https://evil.example")), "of another provider"),
        (with("iss", None), "does not say which provider"),
        (with("error", Some("access_denied")), "access_denied"),
        (with("error", Some("<b>Your own words</b>")), "an error of no known form"),
        (with("code", None), "no code"),
    ] {
        let response = back(&console, &address, &cookie).await;
        let (status, page) = (response.status(), response.text().await.unwrap());
        assert!(status == StatusCode::UNAUTHORIZED && page.contains(why) && !page.contains("own words"), "{page}");
    }
    assert_eq!(provider.asked("/token"), 0, "no code was shown to anybody");
    // The tenth failure of this address.
    let twice = format!("{answer}&state=x");
    assert_eq!(back(&console, &twice, &cookie).await.status(), StatusCode::UNAUTHORIZED);
    let limited = back(&console, &answer, &cookie).await;
    assert_eq!(limited.status(), StatusCode::TOO_MANY_REQUESTS);
    assert!(limited.headers().contains_key(RETRY_AFTER));

    // Another replica, which never saw the browser, takes it from there.
    let replica = self::console(&world, &provider, &[]).await;
    let signed_in = back(&replica, &answer, &cookie).await;
    assert_eq!(signed_in.status(), StatusCode::SEE_OTHER);
    let session = cookies(&signed_in)[0].split(';').next().unwrap().to_owned();
    assert_eq!(console.page("/console", &session).await.0, StatusCode::OK, "its session is known to both");
    // The browser has dropped its cookie by then.
    assert_eq!(back(&replica, &answer, &session).await.status(), StatusCode::UNAUTHORIZED);
    provider.set().reuses_codes = false;
    let (asked, cookie) = begin(&replica).await;
    let answer = provider.sign_in(&asked);
    assert_eq!(back(&replica, &answer, &cookie).await.status(), StatusCode::SEE_OTHER);
    let again = back(&replica, &answer, &cookie).await;
    let (status, page) = (again.status(), again.text().await.unwrap());
    assert!(
        status == StatusCode::UNAUTHORIZED && page.contains("invalid_grant") && !page.contains("private"),
        "{page}"
    );
}

#[tokio::test]
async fn new_keys_are_fetched_when_a_token_names_one_but_not_for_each() {
    let world = World::new().await;
    let provider = Provider::start().await;
    let console = console(&world, &provider, &[("ADMIN_TRUSTED_PROXIES", "127.0.0.1")]).await;
    assert_eq!(sign_in(&console, &provider).await.status(), StatusCode::SEE_OTHER);
    assert_eq!(provider.asked("/keys"), 1);
    provider.set().signing = Signing::UnknownKid;
    let storm = (0..16).map(async |number| sign_in_from(&console, &provider, number).await);
    for status in futures::future::join_all(storm).await {
        let is_told = [StatusCode::UNAUTHORIZED, StatusCode::SERVICE_UNAVAILABLE].contains(&status);
        assert!(is_told, "{status}");
    }
    assert_eq!((provider.asked("/keys"), provider.asked(DISCOVERY)), (1, 1), "they were fetched within the minute");

    // A worker whose minutes are seconds.
    let proxies = [("ADMIN_TRUSTED_PROXIES", "127.0.0.1"), ("CAREBELL_PACE", "60")];
    let console = console_by(&["run", "--only", "admin"], &world, &provider, &proxies).await;
    (provider.set().signing, provider.set().kids) = (Signing::Rsa, "");
    assert_eq!(sign_in(&console, &provider).await.status(), StatusCode::SEE_OTHER);
    provider.set().kids = "-2";
    let mut number = 0;
    world
        .eventually("the new key is known", async || {
            number += 1;
            (sign_in_from(&console, &provider, number).await == StatusCode::SEE_OTHER).then_some(())
        })
        .await;
    assert_eq!(provider.asked("/keys"), 3);
}

#[tokio::test]
async fn a_provider_that_is_away_or_misbehaves_is_told_and_left_alone_for_a_while() {
    let world = World::new().await;
    let provider = Provider::start().await;
    let told = async |place: &'static str, instead: Instead, discovery: Value, why: &str| {
        provider.set().instead.clear();
        provider.set().instead.insert(place, instead);
        provider.set().discovery = discovery;
        let console = console(&world, &provider, &[]).await;
        let since = tokio::time::Instant::now();
        let answer = console.request(Method::GET, "/console/oidc").send().await.unwrap();
        assert!(since.elapsed() < Duration::from_secs(8), "{place}: {:?}", since.elapsed());
        let (status, waits) = (answer.status(), answer.headers().contains_key(RETRY_AFTER));
        let page = answer.text().await.unwrap();
        assert!(status == StatusCode::SERVICE_UNAVAILABLE && waits && page.contains(why), "{why}: {status} {page}");
        // Others are told the same at once, and tokens go on.
        let asked = provider.asked(place);
        let again = console.request(Method::GET, "/console/oidc").send().await.unwrap();
        assert_eq!((again.status(), provider.asked(place)), (StatusCode::SERVICE_UNAVAILABLE, asked), "{why}");
        assert_eq!(console.get("/jobs/any").await.status, StatusCode::NOT_FOUND);
        assert!(console.output().contains("the provider of ADMIN_OIDC_ISSUER cannot be used"), "{}", console.output());
    };
    let well = || json!({});
    let elsewhere = format!("{}/keys", provider.url);
    let cases = [
        (DISCOVERY, Instead::Never, well(), "timeout"),
        ("/keys", Instead::Never, well(), "timeout"),
        ("/keys", Instead::Slowly, well(), "breaks off"),
        (DISCOVERY, Instead::Bytes(300_000), well(), "more than 262144 bytes"),
        (DISCOVERY, Instead::Status(200, json!("no object")), well(), "another name"),
        (DISCOVERY, Instead::To(elsewhere.clone()), well(), "answers 302"),
        ("/keys", Instead::To(elsewhere), well(), "answers 302"),
        ("/keys", Instead::Status(500, json!({})), well(), "answers 500"),
        ("/keys", Instead::Status(200, json!({ "keys": vec![json!({}); 51] })), well(), "more than 50 keys"),
        ("", Instead::Never, json!({ "issuer": "https://another.example" }), "another name"),
        ("", Instead::Never, json!({ "token_endpoint": "http://id.example.org/token" }), "no token_endpoint with TLS"),
        ("", Instead::Never, json!({ "jwks_uri": null }), "no jwks_uri with TLS"),
        ("", Instead::Never, json!({ "authorization_endpoint": "javascript:x" }), "no authorization_endpoint with TLS"),
    ];
    for (place, instead, discovery, why) in cases {
        told(place, instead, discovery, why).await;
    }

    provider.set().instead.clear();
    provider.set().discovery = json!({});
    let console = console(&world, &provider, &[]).await;
    for (instead, why) in [
        (Instead::Never, "timeout"),
        (Instead::Bytes(300_000), "more than 262144 bytes"),
        (Instead::Status(200, json!({})), "no ID token"),
        (Instead::Status(401, json!({ "error": "invalid_client" })), "401, invalid_client"),
        (Instead::Status(503, json!({})), "503"),
    ] {
        let (asked, cookie) = begin(&console).await;
        provider.set().instead.insert("/token", instead);
        let response = back(&console, &provider.sign_in(&asked), &cookie).await;
        let (status, page) = (response.status(), response.text().await.unwrap());
        assert!(status == StatusCode::SERVICE_UNAVAILABLE && page.contains(why), "{why}: {status} {page}");
    }
    provider.set().instead.clear();
    assert_eq!(sign_in(&console, &provider).await.status(), StatusCode::SEE_OTHER, "it is asked again");
    assert_eq!(console.get("/jobs/any").await.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn the_certificate_of_the_provider_must_be_trusted() {
    let world = World::new().await;
    let provider = Provider::at("https://localhost").await;
    let console = self::console(&world, &provider, &[]).await;
    let answer = console.request(Method::GET, "/console/oidc").send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(answer.text().await.unwrap().contains("no connection"));
    let file = world.directory.path().join("provider.pem");
    std::fs::write(&file, &provider.ca_pem).unwrap();
    let trusts = [("ADMIN_OIDC_CA_FILE", file.to_str().unwrap())];
    let console = self::console(&world, &provider, &trusts).await;
    assert_eq!(sign_in(&console, &provider).await.status(), StatusCode::SEE_OTHER);
    assert_eq!(provider.set().faults, [""; 0]);
}

/// Its cookies come back from another site, and no policy of the page is in the way.
#[tokio::test]
async fn a_real_browser_signs_in_at_the_provider() {
    let Some(browser) = Browser::start(Settings::default()).await else { return };
    let world = World::new().await;
    let provider = Provider::at("http://localhost").await;
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
    let url = format!("http://127.0.0.1:{free}");
    let console = self::console(&world, &provider, &[("ADMIN_PORT", &free), ("ADMIN_URL", &url)]).await;
    browser.open(&format!("{}/console/queues", console.url)).await;
    browser.shows("h1", "Sign in").await;
    assert_eq!(browser.findings().await, Vec::<String>::new());
    assert_eq!(browser.complaints().await, Vec::<String>::new());
    browser.picture("sign-in-provider").await;
    browser.press(ENTER).await;
    browser.shows("h1", "Queues").await;
    browser.shows(".who", "oidc:ana, operator").await;
    assert_eq!(browser.complaints().await, Vec::<String>::new());
    browser.click(".who button").await;
    browser.shows("h1", "Sign in").await;
    browser.close().await;
}
