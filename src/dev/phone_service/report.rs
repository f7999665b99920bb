//! Status callbacks: signed forms.

use std::{fmt::Write as _, io, net::SocketAddr};

use base64::{Engine, engine::general_purpose::STANDARD};
use openssl::{error::ErrorStack, hash::MessageDigest, pkey::PKey, sign::Signer};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use url::{Url, form_urlencoded};

use super::Received;

/// A status callback.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// URL, as signed.
    pub url: String,
    /// Form fields.
    pub fields: Vec<(String, String)>,
}

/// A callback's signature, by OpenSSL, independent of the product.
///
/// # Errors
/// If OpenSSL fails.
pub fn signature(token: &str, url: &str, fields: &[(String, String)]) -> Result<String, ErrorStack> {
    let key = PKey::hmac(token.as_bytes())?;
    let mut signer = Signer::new(MessageDigest::sha1(), &key)?;
    signer.update(url.as_bytes())?;
    let mut names: Vec<usize> = (0..fields.len()).collect();
    names.sort_by_key(|index| &fields[*index].0);
    for index in names {
        signer.update(format!("{}{}", fields[index].0, fields[index].1).as_bytes())?;
    }
    Ok(STANDARD.encode(signer.sign_to_vec()?))
}

impl Report {
    /// A callback about an accepted request.
    ///
    /// # Errors
    /// If the request named no `StatusCallback`.
    pub fn of(received: &Received, status: &str, error_code: Option<u32>) -> io::Result<Self> {
        let nowhere = || io::Error::new(io::ErrorKind::NotFound, "the request named no StatusCallback");
        let url = received.status_callback.clone().ok_or_else(nowhere)?;
        let of = if received.spoken.is_some() { "Call" } else { "Message" };
        let mut fields = vec![
            (format!("{of}Sid"), received.sid.clone()),
            (format!("{of}Status"), status.to_owned()),
            ("To".to_owned(), received.to.clone()),
            ("From".to_owned(), received.from.clone()),
            ("ApiVersion".to_owned(), "2010-04-01".to_owned()),
        ];
        fields.extend(error_code.map(|code| ("ErrorCode".to_owned(), code.to_string())));
        Ok(Self { url, fields })
    }

    /// Signs and posts it over plain HTTP, to `proxy` if given. Returns the HTTP status.
    ///
    /// # Errors
    /// If nobody answers.
    pub async fn post(&self, token: &str, proxy: Option<SocketAddr>) -> io::Result<u16> {
        let signature = signature(token, &self.url, &self.fields).map_err(io::Error::other)?;
        self.post_with(&[("X-Twilio-Signature", &signature)], proxy).await
    }

    /// Posts it with these headers only.
    ///
    /// # Errors
    /// Like [`Report::post`].
    pub async fn post_with(&self, headers: &[(&str, &str)], proxy: Option<SocketAddr>) -> io::Result<u16> {
        let url = Url::parse(&self.url).map_err(io::Error::other)?;
        let host = url.host_str().unwrap_or_default();
        let mut stream = if let Some(address) = proxy {
            TcpStream::connect(address).await?
        } else {
            TcpStream::connect((host.trim_matches(['[', ']']), url.port_or_known_default().unwrap_or(80))).await?
        };
        let body = form_urlencoded::Serializer::new(String::new()).extend_pairs(&self.fields).finish();
        let mut text = format!("POST {} HTTP/1.1\r\nHost: {host}\r\n", url.path());
        let length = body.len().to_string();
        let own = [("Content-Length", length.as_str()), ("Connection", "close")];
        let form = ("Content-Type", "application/x-www-form-urlencoded");
        let named = headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("content-type"));
        for (name, value) in own.iter().chain(headers).chain((!named).then_some(&form)) {
            let _ = write!(text, "{name}: {value}\r\n");
        }
        stream.write_all(format!("{text}\r\n{body}").as_bytes()).await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        let status = String::from_utf8_lossy(&answer).split(' ').nth(1).and_then(|status| status.parse().ok());
        status.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "the answer is not HTTP"))
    }
}
