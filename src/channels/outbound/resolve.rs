//! Resolves to public addresses only. The client connects to exactly these, so a second lookup can't differ.

use std::{
    fmt, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
};

use reqwest::dns::{Addrs, Name, Resolve, Resolving};

use super::AllowedHost;

/// IP addresses in URLs bypass it: they must be on the allow list.
pub struct PublicOnly {
    named: Arc<[AllowedHost]>,
}

impl PublicOnly {
    pub fn new(named: Arc<[AllowedHost]>) -> Self {
        Self { named }
    }
}

impl Resolve for PublicOnly {
    fn resolve(&self, name: Name) -> Resolving {
        let anywhere = self.named.iter().any(|named| named.is(name.as_str()));
        Box::pin(async move {
            let found: Vec<SocketAddr> = tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            let addresses = usable(found, anywhere)?;
            Ok(Box::new(addresses.into_iter()) as Addrs)
        })
    }
}

fn usable(found: Vec<SocketAddr>, anywhere: bool) -> Result<Vec<SocketAddr>, NoPublicAddress> {
    let addresses: Vec<_> = found.into_iter().filter(|address| anywhere || is_public(address.ip())).collect();
    if addresses.is_empty() { Err(NoPublicAddress) } else { Ok(addresses) }
}

/// All addresses of a name are private: its DNS is wrong or hostile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoPublicAddress;

impl fmt::Display for NoPublicAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the host has no public address")
    }
}

impl std::error::Error for NoPublicAddress {}

impl From<NoPublicAddress> for io::Error {
    fn from(error: NoPublicAddress) -> Self {
        Self::other(error)
    }
}

/// Whether an address is public (IANA's special-purpose registries, RFC 6890). Unwraps embedded IPv4 addresses.
pub fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => is_public_v4(v4),
        IpAddr::V6(v6) => is_public_v6(v6),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    let special = match a {
        0 | 10 | 127 | 224.. => true,  // this network, private, loopback, multicast and reserved
        100 => (64..128).contains(&b), // carrier-grade NAT
        169 => b == 254,               // link-local, with the clouds' metadata services
        172 => (16..32).contains(&b),  // private
        192 => b == 168 || matches!((b, c), (0, 0 | 2) | (88, 99)), // private, protocols, documentation, 6to4 relays
        198 => b == 18 || b == 19 || (b, c) == (51, 100), // benchmarks, documentation
        203 => (b, c) == (0, 113),     // documentation
        _ => false,
    };
    !special
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    let segments = address.segments();
    let embedded = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        is_public_v4(Ipv4Addr::new(a, b, c, d))
    };
    match segments {
        // Mapped, NAT64, 6to4.
        [0, 0, 0, 0, 0, 0xffff, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] | [0x2002, high, low, ..] => {
            embedded(high, low)
        }
        // Teredo, ORCHID, benchmarks and other protocols; documentation, twice.
        [0x2001, ..=0x01ff | 0x0db8, ..] | [0x3fff, ..=0x0fff, ..] => false,
        [first, ..] => first & 0xe000 == 0x2000, // Of the rest, only 2000::/3 is handed out.
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_of_the_internet_are_public() {
        for address in [
            "0.0.0.0",
            "0.1.2.3",
            "10.0.0.1",
            "100.64.0.1",
            "100.127.255.255",
            "127.0.0.1",
            "127.255.255.254",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.8",
            "192.0.2.1",
            "192.88.99.1",
            "192.168.1.1",
            "198.18.0.1",
            "198.19.255.255",
            "198.51.100.7",
            "203.0.113.9",
            "224.0.0.1",
            "239.255.255.255",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::127.0.0.1",
            "::8.8.8.8",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "::ffff:169.254.169.254",
            "64:ff9b::10.0.0.1",
            "64:ff9b::7f00:1",
            "64:ff9b:1::1",
            "100::1",
            "2001::1",
            "2001:2::1",
            "2001:10::1",
            "2001:20::1",
            "2001:db8::1",
            "2002:7f00:1::",
            "2002:a00:1::",
            "2002:a9fe:a9fe::1",
            "3fff::1",
            "3fff:fff::1",
            "fc00::1",
            "fd12::1",
            "fe80::1",
            "fec0::1",
            "ff02::1",
            "4000::1",
        ] {
            assert!(!is_public(address.parse().unwrap()), "{address}");
        }
        for address in [
            "1.1.1.1",
            "8.8.8.8",
            "100.63.255.255",
            "100.128.0.1",
            "169.253.1.1",
            "172.15.0.1",
            "172.32.0.1",
            "192.0.1.1",
            "192.167.1.1",
            "198.17.0.1",
            "198.20.0.1",
            "203.0.112.1",
            "223.255.255.255",
            "::ffff:8.8.8.8",
            "64:ff9b::8.8.8.8",
            "2002:808:808::1",
            "2001:200::1",
            "2001:4860:4860::8888",
            "2606:4700:4700::1111",
            "2a00:1450::1",
        ] {
            assert!(is_public(address.parse().unwrap()), "{address}");
        }
    }

    #[test]
    fn what_is_not_public_is_dropped_unless_the_host_was_named() {
        let found: Vec<SocketAddr> = ["10.0.0.1:0", "8.8.8.8:0", "[::1]:0"].map(|text| text.parse().unwrap()).into();
        assert_eq!(usable(found.clone(), false), Ok(vec!["8.8.8.8:0".parse().unwrap()]));
        assert_eq!(usable(found.clone(), true), Ok(found));
        assert_eq!(usable(vec!["127.0.0.1:0".parse().unwrap()], false), Err(NoPublicAddress));
        assert_eq!(usable(Vec::new(), true), Err(NoPublicAddress));
    }

    #[tokio::test]
    async fn the_resolver_answers_with_checked_addresses_only() {
        let named = AllowedHost::list("WEB_PUSH_ALLOWED_HOSTS", "localhost:8443").unwrap();
        let named = PublicOnly::new(named.into()).resolve("localhost".parse().unwrap()).await.unwrap();
        assert!(named.into_iter().all(|address| address.ip().is_loopback()));
        let Err(error) = PublicOnly::new(Arc::new([])).resolve("localhost".parse().unwrap()).await else {
            panic!("loopback was let through");
        };
        assert_eq!(error.to_string(), NoPublicAddress.to_string());
    }
}
