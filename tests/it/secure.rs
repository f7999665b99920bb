//! TLS to NATS and Postgres, required off this machine; with a private root, and with a password that is never shown.

use carebell::{
    clock::Clock,
    config::Source,
    dev::{guard, nats::NatsServer},
    doctor::{self, Check, CheckResult, Egress, Item},
    health::Health,
    nats,
};

use crate::support::{World, programs};

/// An address that counts as another machine's, though the system connects it to this one.
const FAR: &str = "0.0.0.0";

/// A root, and its certificate for 127.0.0.1 and [`FAR`], in PEM.
pub struct Certificates {
    pub root: String,
    pub certificate: String,
    pub key: String,
}

pub fn certificates() -> Certificates {
    let root_key = rcgen::KeyPair::generate().unwrap();
    let mut root = rcgen::CertificateParams::new(Vec::new()).unwrap();
    root.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let root_certificate = root.self_signed(&root_key).unwrap();
    let issuer = rcgen::Issuer::new(root, root_key);
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = rcgen::CertificateParams::new(["127.0.0.1".to_owned(), FAR.to_owned()]).unwrap();
    let certificate = certificate.signed_by(&key, &issuer).unwrap();
    Certificates { root: root_certificate.pem(), certificate: certificate.pem(), key: key.serialize_pem() }
}

fn source(values: &[(&str, &str)]) -> Source {
    Source::of(values.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())))
}

#[tokio::test]
async fn a_server_with_a_private_root_is_trusted_by_naming_it() {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let directory = guard::private_dir().unwrap();
    let Certificates { root, certificate, key } = certificates();
    let path = |name: &str| directory.path().join(name).display().to_string();
    for (name, text) in [("root.pem", &root), ("server.pem", &certificate), ("server.key", &key)] {
        std::fs::write(path(name), text).unwrap();
    }
    let tls = format!("tls {{ cert_file: {:?}, key_file: {:?} }}", path("server.pem"), path("server.key"));
    let server = NatsServer::start_with(&programs().await.nats_server, directory.path(), &tls).await.unwrap();
    let url = format!("tls://127.0.0.1:{}", server.port());

    let trusted = source(&[("NATS_URL", &url), ("NATS_CA_FILE", &path("root.pem"))]).nats().unwrap();
    let client = nats::connect(&trusted, &Health::new()).await.unwrap();
    client.flush().await.unwrap();

    let far = format!("nats://{FAR}:{}", server.port());
    let encrypted = source(&[("NATS_URL", &far), ("NATS_CA_FILE", &path("root.pem"))]).nats().unwrap();
    nats::connect(&encrypted, &Health::new()).await.unwrap().flush().await.unwrap();

    let stranger = source(&[("NATS_URL", &url)]).nats().unwrap();
    let refused = nats::connect(&stranger, &Health::new()).await.unwrap_err().to_string();
    assert!(refused.starts_with("NATS_URL"), "{refused}");
}

#[tokio::test]
async fn a_password_in_the_url_is_used_and_never_repeated() {
    let directory = guard::private_dir().unwrap();
    let users = "authorization { users: [ { user: carebell, password: s3cret } ] }";
    let server = NatsServer::start_with(&programs().await.nats_server, directory.path(), users).await.unwrap();
    let url = |password: &str| format!("nats://carebell:{password}@127.0.0.1:{}", server.port());
    let right = source(&[("NATS_URL", &url("s3cret"))]).nats().unwrap();
    nats::connect(&right, &Health::new()).await.unwrap().flush().await.unwrap();

    let wrong = source(&[("NATS_URL", &url("wr0ng"))]).nats().unwrap();
    let refused = nats::connect(&wrong, &Health::new()).await.unwrap_err().to_string();
    assert!(refused.starts_with("NATS_URL") && !refused.contains("wr0ng"), "{refused}");
}

/// What `carebell doctor` says of NATS and the database under these URLs.
async fn told(nats: &str, database: &str) -> [Check; 2] {
    let source = source(&[("NATS_URL", nats), ("DATABASE_URL", database)]);
    let checks = doctor::examine(&source, &Clock::system(), Egress::Offline).await;
    [Item::Nats, Item::Database].map(|item| checks.iter().find(|check| check.item == item).unwrap().clone())
}

#[tokio::test]
async fn nothing_goes_over_a_network_unencrypted_unless_that_is_said() {
    let world = World::new().await;
    let (nats, database) = (world.nats.url(), world.database_url.clone());
    let far = |url: &str| url.replace("127.0.0.1", FAR);
    for check in told(&nats, &database).await {
        assert!(matches!(check.outcome, CheckResult::Ok(_)), "{check}");
    }

    let [of_nats, of_database] = told(&far(&nats), &far(&database)).await;
    assert!(of_nats.is_failure() && of_nats.words().contains("offers no TLS"), "{of_nats}");
    assert!(of_nats.words().contains("?tls=none"), "{of_nats}");
    assert!(of_database.is_failure() && of_database.words().contains("offers no TLS"), "{of_database}");
    assert!(of_database.words().contains("?sslmode=disable"), "{of_database}");
    // Modes that an attacker in between can talk down.
    for mode in ["allow", "prefer"] {
        let [_, of_database] = told(&nats, &format!("{}?sslmode={mode}", far(&database))).await;
        assert!(of_database.is_failure(), "{of_database}");
    }

    let (nats, database) = (format!("{}?tls=none", far(&nats)), format!("{}?sslmode=disable", far(&database)));
    for check in told(&nats, &database).await {
        assert!(
            matches!(check.outcome, CheckResult::Warn { .. }) && check.words().contains("not encrypted"),
            "{check}"
        );
    }
}
