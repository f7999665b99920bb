//! An `OpenID` provider: a server that speaks the protocol with keys of its own, and misbehaves when told to. It signs
//! with another library than the one that the console checks with.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use aws_lc_rs::{
    digest::{SHA256, digest},
    hmac, rand,
    rsa::KeySize,
    signature::{
        ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair, RSA_PKCS1_SHA256, RsaKeyPair, RsaPublicKeyComponents,
    },
};
use axum::{
    Router,
    body::Body,
    extract::State,
    http::{HeaderMap, StatusCode, Uri, header::LOCATION},
    response::{IntoResponse, Response},
    serve::Listener,
};
use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use carebell::dev::certificates;
use futures::stream;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use url::{Url, form_urlencoded};

use super::utc_now;

pub const CLIENT: &str = "carebell console";
pub const SECRET: &str = "a secret: with+signs";

/// How an ID token is signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signing {
    Rsa,
    Ec,
    /// By the RSA key, without a name of it: only one fits.
    NoKid,
    /// `alg: none`
    Nobody,
    /// HS256, with the text of the public key as its secret.
    PublicKeyAsSecret,
    /// With the other key than the header names.
    OtherKey,
    /// A kid that is not published.
    UnknownKid,
    /// By the RSA key, and then changed.
    Changed,
}

/// An answer that a place gives instead of its own.
#[derive(Clone, Debug)]
pub enum Instead {
    Never,
    Bytes(usize),
    /// A byte now and then, without end.
    Slowly,
    Status(u16, Value),
    To(String),
}

#[derive(Clone)]
struct Begun {
    challenge: String,
    nonce: String,
    redirect: String,
}

pub struct Settings {
    /// In place of its own claims; null removes one.
    pub claims: Value,
    /// In place of its own settings; null removes one.
    pub discovery: Value,
    pub signing: Signing,
    /// By path.
    pub instead: HashMap<&'static str, Instead>,
    /// Whether it publishes its keys under new names.
    pub kids: &'static str,
    /// Whether a code is good more than once.
    pub reuses_codes: bool,
    /// Requests, by path.
    pub asked: HashMap<String, usize>,
    /// Faults in what it was asked.
    pub faults: Vec<String>,
    codes: HashMap<String, Begun>,
}

struct Keys {
    rsa: RsaKeyPair,
    ec: EcdsaKeyPair,
}

#[derive(Clone)]
pub struct Provider {
    pub url: String,
    /// Of its certificate.
    pub ca_pem: String,
    settings: Arc<Mutex<Settings>>,
    keys: Arc<Keys>,
}

impl Provider {
    pub async fn start() -> Self {
        Self::at("http://127.0.0.1").await
    }

    /// By this scheme and under this name of this machine.
    pub async fn at(origin: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("{origin}:{}/realms/care", listener.local_addr().unwrap().port());
        let (tls, ca_pem) = certificates::localhost(&[b"http/1.1"]).unwrap();
        let settings = Settings {
            claims: json!({}),
            discovery: json!({}),
            signing: Signing::Rsa,
            instead: HashMap::new(),
            kids: "",
            reuses_codes: false,
            asked: HashMap::new(),
            faults: Vec::new(),
            codes: HashMap::new(),
        };
        let keys = Keys {
            rsa: RsaKeyPair::generate(KeySize::Rsa2048).unwrap(),
            ec: EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap(),
        };
        let provider = Self { url, ca_pem, settings: Arc::new(Mutex::new(settings)), keys: Arc::new(keys) };
        let router = Router::new().fallback(answer).with_state(provider.clone());
        if origin.starts_with("https") {
            tokio::spawn(async move { axum::serve(Tls(listener, tls), router).await });
        } else {
            tokio::spawn(async move { axum::serve(listener, router).await });
        }
        provider
    }

    pub fn set(&self) -> MutexGuard<'_, Settings> {
        self.settings.lock().unwrap()
    }

    pub fn asked(&self, place: &str) -> usize {
        self.set().asked.get(place).copied().unwrap_or(0)
    }

    /// For a console.
    pub fn variables(&self) -> Vec<(String, String)> {
        let variables = [
            ("ADMIN_OIDC_ISSUER", &*self.url),
            ("ADMIN_OIDC_CLIENT_ID", CLIENT),
            ("ADMIN_OIDC_CLIENT_SECRET", SECRET),
            ("ADMIN_OIDC_ROLES", "oncall=operator,care=coordinator"),
            ("ADMIN_URL", "https://console.example.org"),
        ];
        variables.map(|(name, value)| (name.to_owned(), value.to_owned())).into()
    }

    /// What the provider's own pages do once somebody is signed in there: the address to which the browser goes.
    pub fn sign_in(&self, asked: &str) -> String {
        let url = Url::parse(asked).unwrap();
        let asked: HashMap<String, String> = url.query_pairs().into_owned().collect();
        assert_eq!((&*asked["response_type"], &*asked["client_id"]), ("code", CLIENT));
        assert_eq!(asked["code_challenge_method"], "S256");
        assert!(asked["scope"].split(' ').any(|scope| scope == "openid"));
        let code = carebell::admin::draw_secret().unwrap();
        let begun = Begun {
            challenge: asked["code_challenge"].clone(),
            nonce: asked["nonce"].clone(),
            redirect: asked["redirect_uri"].clone(),
        };
        self.set().codes.insert(code.clone(), begun);
        let mut back = Url::parse(&asked["redirect_uri"]).unwrap();
        back.query_pairs_mut().append_pair("code", &code).append_pair("state", &asked["state"]);
        back.query_pairs_mut().append_pair("iss", &self.url);
        back.into()
    }

    fn discovery(&self) -> Value {
        let place = |name: &str| format!("{}/{name}", self.url);
        let own = json!({
            "issuer": self.url,
            "authorization_endpoint": place("authorize?tenant=care"),
            "token_endpoint": place("token"),
            "jwks_uri": place("keys"),
            "token_endpoint_auth_methods_supported": ["client_secret_basic", "client_secret_post"],
            "authorization_response_iss_parameter_supported": true,
        });
        merged(own, &self.set().discovery)
    }

    fn published(&self) -> Value {
        let kids = self.set().kids;
        let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        let rsa = RsaPublicKeyComponents::<Vec<u8>>::from(self.keys.rsa.public_key());
        let ec = self.keys.ec.public_key().as_ref();
        json!({ "keys": [
            { "kty": "EC", "crv": "secp256k1", "kid": "unheard of", "x": "AA", "y": "AA" },
            { "kty": "RSA", "use": "enc", "kid": "seals", "n": encode(&rsa.n), "e": encode(&rsa.e) },
            { "kty": "RSA", "use": "sig", "alg": "RS256", "kid": format!("rsa{kids}"), "n": encode(&rsa.n),
              "e": encode(&rsa.e) },
            { "kty": "EC", "crv": "P-256", "kid": format!("ec{kids}"), "x": encode(&ec[1..33]), "y": encode(&ec[33..]) },
        ] })
    }

    fn id_token(&self, nonce: &str) -> String {
        let (signing, kids, own) = {
            let settings = self.set();
            (settings.signing, settings.kids, settings.claims.clone())
        };
        let now = utc_now().timestamp();
        let claims = json!({
            "iss": self.url, "aud": CLIENT, "sub": "248289761001", "nonce": nonce, "iat": now, "exp": now + 300,
            "preferred_username": "ana", "groups": ["family", "oncall"],
        });
        let (algorithm, kid) = match signing {
            Signing::Nobody => ("none", "rsa"),
            Signing::PublicKeyAsSecret => ("HS256", "rsa"),
            Signing::Ec => ("ES256", "ec"),
            Signing::OtherKey => ("RS256", "ec"),
            Signing::UnknownKid => ("RS256", "lost"),
            Signing::Rsa | Signing::Changed | Signing::NoKid => ("RS256", "rsa"),
        };
        let kid = (signing != Signing::NoKid).then(|| format!("{kid}{kids}"));
        let header = merged(json!({ "alg": algorithm, "typ": "JWT" }), &json!({ "kid": kid }));
        let encode = |part: &Value| URL_SAFE_NO_PAD.encode(part.to_string());
        let claims = merged(claims, &own);
        let message = format!("{}.{}", encode(&header), encode(&claims));
        let random = rand::SystemRandom::new();
        let signature = match signing {
            Signing::Nobody => Vec::new(),
            Signing::PublicKeyAsSecret => {
                let key = hmac::Key::new(hmac::HMAC_SHA256, self.keys.rsa.public_key().as_ref());
                hmac::sign(&key, message.as_bytes()).as_ref().to_vec()
            }
            Signing::Ec => self.keys.ec.sign(&random, message.as_bytes()).unwrap().as_ref().to_vec(),
            _ => {
                let mut signature = vec![0; self.keys.rsa.public_modulus_len()];
                self.keys.rsa.sign(&RSA_PKCS1_SHA256, &random, message.as_bytes(), &mut signature).unwrap();
                signature
            }
        };
        let message = if signing == Signing::Changed {
            let changed = merged(claims, &json!({ "groups": ["family", "admins"] }));
            format!("{}.{}", encode(&header), encode(&changed))
        } else {
            message
        };
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    fn token(&self, headers: &HeaderMap, body: &str) -> (StatusCode, Value) {
        let form: HashMap<String, String> = form_urlencoded::parse(body.as_bytes()).into_owned().collect();
        let field = |name: &str| form.get(name).map(String::as_str).unwrap_or_default();
        let encoded = |text: &str| form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
        let basic = format!("Basic {}", STANDARD.encode(format!("{}:{}", encoded(CLIENT), encoded(SECRET))));
        let in_header = headers.get("authorization").is_some_and(|value| *value == basic);
        let in_form = field("client_id") == CLIENT && field("client_secret") == SECRET;
        let mut settings = self.set();
        if in_header == in_form || field("grant_type") != "authorization_code" {
            settings.faults.push(format!("asked with {form:?}"));
            return (StatusCode::UNAUTHORIZED, json!({ "error": "invalid_client" }));
        }
        let begun = settings.codes.get(field("code")).cloned();
        if !settings.reuses_codes {
            settings.codes.remove(field("code"));
        }
        let challenge = URL_SAFE_NO_PAD.encode(digest(&SHA256, field("code_verifier").as_bytes()));
        drop(settings);
        match begun.filter(|begun| begun.challenge == challenge && begun.redirect == field("redirect_uri")) {
            Some(begun) => {
                let token = self.id_token(&begun.nonce);
                (StatusCode::OK, json!({ "access_token": "x", "token_type": "Bearer", "id_token": token }))
            }
            None => (StatusCode::BAD_REQUEST, json!({ "error": "invalid_grant", "error_description": "private" })),
        }
    }
}

pub struct Tls(pub TcpListener, pub TlsAcceptor);

impl Listener for Tls {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            let (stream, address) = self.0.accept().await.unwrap();
            // A client that does not trust the certificate ends here.
            if let Ok(stream) = self.1.accept(stream).await {
                return (stream, address);
            }
        }
    }

    fn local_addr(&self) -> std::io::Result<Self::Addr> {
        self.0.local_addr()
    }
}

fn merged(mut own: Value, other: &Value) -> Value {
    for (name, value) in other.as_object().unwrap() {
        own[name] = value.clone();
    }
    own.as_object_mut().unwrap().retain(|_, value| !value.is_null());
    own
}

async fn answer(State(provider): State<Provider>, uri: Uri, headers: HeaderMap, body: String) -> Response {
    let base = Url::parse(&provider.url).unwrap().path().to_owned();
    let place = uri.path().strip_prefix(&base).unwrap_or_default().to_owned();
    let instead = {
        let mut settings = provider.set();
        *settings.asked.entry(place.clone()).or_default() += 1;
        settings.instead.get(&*place).cloned()
    };
    match instead {
        Some(Instead::Never) => std::future::pending().await,
        Some(Instead::Bytes(many)) => Body::from(format!("{{\"x\":\"{}\"}}", "x".repeat(many))).into_response(),
        Some(Instead::Slowly) => {
            let bytes = stream::unfold((), async |()| {
                tokio::time::sleep(Duration::from_millis(200)).await;
                Some((Ok::<_, std::io::Error>(" "), ()))
            });
            Body::from_stream(bytes).into_response()
        }
        Some(Instead::Status(status, body)) => {
            (StatusCode::from_u16(status).unwrap(), body.to_string()).into_response()
        }
        Some(Instead::To(place)) => (StatusCode::FOUND, [(LOCATION, place)]).into_response(),
        // Somebody is signed in there already.
        None if place == "/authorize" => {
            let back = provider.sign_in(&format!("http://localhost{uri}"));
            (StatusCode::FOUND, [(LOCATION, back)]).into_response()
        }
        None => {
            let (status, body) = match &*place {
                "/.well-known/openid-configuration" => (StatusCode::OK, provider.discovery()),
                "/keys" => (StatusCode::OK, provider.published()),
                "/token" => provider.token(&headers, &body),
                _ => (StatusCode::NOT_FOUND, json!({})),
            };
            (status, body.to_string()).into_response()
        }
    }
}
