//! The place of the store: the URL of the configuration, read.
//!
//! ```text
//! redis[s]://[USER[:PASSWORD]@]HOST[:PORT][/DB]
//! redis[s]+sentinel://[USER[:PASSWORD]@]HOST[:PORT],…/SERVICE[/DB]      the sentinels; 26379
//! redis[s]+cluster://[USER[:PASSWORD]@]HOST[:PORT],…
//! ```
//! User and password are those of the data nodes; sentinels that want to know who asks are asked with them, too. Of a query nothing is read but `protocol`, of
//! the first form.
//!
//! Invariant: no error repeats any of the URL.

use redis::cluster::ClusterClient;
use redis::sentinel::{SentinelClientBuilder, SentinelServerType};
use redis::{
    Client, ClientTlsConfig, ConnectionInfo, IntoConnectionInfo, RedisConnectionInfo, TlsCertificates, TlsMode,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use super::super::store::{StoreError, StoreTls};
use super::sentinel::{Login, Sentinel};

const SENTINEL_PORT: u16 = 26_379;
/// How long the library waits before it asks again a Cluster that is about to replace a node, at least and at most, in milliseconds. Both
/// times it asks again are within an operation's limit, so that the Cluster's own word is told and not that none came.
const RETRY_WAIT_MS: (u64, u64) = (10, 100);

/// What connections are made from.
pub(super) enum RedisClient {
    One(Box<Client>),
    /// A client for each sentinel.
    Sentinel(Vec<Sentinel>),
    Cluster {
        cluster: Box<ClusterClient>,
        /// Each node of the URL by itself.
        seeds: Vec<Client>,
    },
}

impl RedisClient {
    /// Reads `url`; `tls` holds for its `rediss` forms.
    pub fn read(url: &str, tls: &StoreTls) -> Result<Self, StoreError> {
        let parts = Parts::split(url)?;
        check(tls)?;
        if !tls.is_plain() && !parts.tls {
            return Err(StoreError::Url("speaks no TLS, which a CA or a client certificate is for: write rediss"));
        }
        let tls = (!tls.is_plain()).then(|| certificates(tls));
        match parts.kind {
            Kind::One => parts.one(tls),
            Kind::Sentinel => parts.sentinel(tls),
            Kind::Cluster => parts.cluster(tls),
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    One,
    Sentinel,
    Cluster,
}

/// The pieces of a URL, not yet decoded.
struct Parts<'a> {
    kind: Kind,
    tls: bool,
    /// With its `@`, or empty.
    user: &'a str,
    hosts: Vec<&'a str>,
    /// Without the first `/`.
    path: &'a str,
}

impl<'a> Parts<'a> {
    fn split(url: &'a str) -> Result<Self, StoreError> {
        const KNOWN: &str = "must begin with memory:, redis://, rediss://, redis+sentinel://, rediss+sentinel://, \
                             redis+cluster:// or rediss+cluster://";
        let (scheme, rest) = url.split_once("://").ok_or(StoreError::Url(KNOWN))?;
        let (kind, tls) = match scheme {
            "redis" => (Kind::One, false),
            "rediss" => (Kind::One, true),
            "redis+sentinel" => (Kind::Sentinel, false),
            "rediss+sentinel" => (Kind::Sentinel, true),
            "redis+cluster" => (Kind::Cluster, false),
            "rediss+cluster" => (Kind::Cluster, true),
            _ => return Err(StoreError::Url(KNOWN)),
        };
        let query = rest.find(['?', '#']).map_or("", |begin| &rest[begin..]);
        let is_protocol = kind == Kind::One && query.starts_with("?protocol=") && !query.contains('&');
        if !query.is_empty() && !is_protocol {
            return Err(StoreError::Url(
                "has a part after ? or #, of which nothing is read: user and password stand before the host, percent-encoded",
            ));
        }
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (user, hosts) = authority.split_at(authority.rfind('@').map_or(0, |at| at + 1));
        let hosts: Vec<_> = hosts.split(',').collect();
        if hosts.iter().any(|host| host.is_empty()) {
            return Err(StoreError::Url("names no host"));
        }
        if kind == Kind::One && hosts.len() > 1 {
            return Err(StoreError::Url("names several hosts, which needs redis+sentinel:// or redis+cluster://"));
        }
        Ok(Self { kind, tls, user, hosts, path })
    }

    /// The library's form of one host, with the user and this path.
    fn info(&self, host: &str, path: &str) -> Result<ConnectionInfo, StoreError> {
        let scheme = if self.tls { "rediss" } else { "redis" };
        format!("{scheme}://{}{host}/{path}", self.user)
            .into_connection_info()
            .map(|info| {
                // Nobody needs the name that the library gives itself, and a user who may not set it is noted in the ACL LOG.
                let settings = info.redis_settings().clone().set_skip_set_lib_name();
                info.set_redis_settings(settings)
            })
            .map_err(|_| StoreError::Url("has a host, a port, a user or a database that cannot be read"))
    }

    fn one(&self, tls: Option<TlsCertificates>) -> Result<RedisClient, StoreError> {
        let client = client(self.info(self.hosts[0], self.path)?, tls)?;
        Ok(RedisClient::One(Box::new(client)))
    }

    fn sentinel(&self, tls: Option<TlsCertificates>) -> Result<RedisClient, StoreError> {
        let (service, db) = self.path.split_once('/').unwrap_or((self.path, ""));
        if service.is_empty() {
            return Err(StoreError::Url("names no service: redis+sentinel://HOST/SERVICE"));
        }
        let settings = self.info(self.hosts[0], db)?.redis_settings().clone();
        let sentinels = self.hosts.iter().map(|host| {
            let has_port = host.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
            let host = if has_port { (*host).to_owned() } else { format!("{host}:{SENTINEL_PORT}") };
            self.one_sentinel(&self.info(&host, "")?, service, &settings, tls.as_ref())
        });
        sentinels.collect::<Result<_, _>>().map(RedisClient::Sentinel)
    }

    fn one_sentinel(
        &self,
        at: &ConnectionInfo,
        service: &str,
        settings: &RedisConnectionInfo,
        tls: Option<&TlsCertificates>,
    ) -> Result<Sentinel, StoreError> {
        let mut logins = vec![(None, None)];
        if let Some(password) = settings.password() {
            logins.push((settings.username(), Some(password)));
            logins.extend(settings.username().map(|_| (None, Some(password))));
        }
        let logins = logins.into_iter().map(|who| self.login(at, who, service, settings, tls));
        Ok(Sentinel::new(service, logins.collect::<Result<_, _>>()?))
    }

    /// To a sentinel that is asked as this user, with this password.
    fn login(
        &self,
        at: &ConnectionInfo,
        (user, password): (Option<&str>, Option<&str>),
        service: &str,
        settings: &RedisConnectionInfo,
        tls: Option<&TlsCertificates>,
    ) -> Result<Login, StoreError> {
        let mut asks = RedisConnectionInfo::default().set_skip_set_lib_name();
        let mut builder = SentinelClientBuilder::new([at.addr().clone()], service, SentinelServerType::Master)
            .map_err(|_| BAD_TLS)?
            .set_client_to_redis_db(settings.db());
        if let Some(user) = user {
            (asks, builder) = (asks.set_username(user), builder.set_client_to_sentinel_username(user));
        }
        if let Some(password) = password {
            (asks, builder) = (asks.set_password(password), builder.set_client_to_sentinel_password(password));
        }
        if let Some(username) = settings.username() {
            builder = builder.set_client_to_redis_username(username);
        }
        if let Some(password) = settings.password() {
            builder = builder.set_client_to_redis_password(password);
        }
        if self.tls {
            builder = builder.set_client_to_redis_tls_mode(TlsMode::Secure);
            if let Some(tls) = tls {
                builder = builder
                    .set_client_to_redis_certificates(tls.clone())
                    .set_client_to_sentinel_certificates(tls.clone());
            }
        }
        let masters = builder.build().map_err(|_| BAD_TLS)?;
        Ok(Login { masters, itself: client(at.clone().set_redis_settings(asks), tls.cloned())? })
    }

    fn cluster(&self, tls: Option<TlsCertificates>) -> Result<RedisClient, StoreError> {
        if !self.path.is_empty() {
            return Err(StoreError::Url("names a database, which a Redis Cluster does not have"));
        }
        let nodes = self.hosts.iter().map(|host| self.info(host, "")).collect::<Result<Vec<_>, _>>()?;
        let seeds = nodes.iter().map(|node| client(node.clone(), tls.clone())).collect::<Result<Vec<_>, _>>()?;
        let (soon, late) = RETRY_WAIT_MS;
        let mut builder = ClusterClient::builder(nodes).retries(2).min_retry_wait(soon).max_retry_wait(late);
        if self.tls {
            builder = builder.tls(TlsMode::Secure);
            if let Some(tls) = tls {
                builder = builder.certs(tls);
            }
        }
        let cluster = builder.build().map_err(|_| BAD_TLS)?;
        Ok(RedisClient::Cluster { cluster: Box::new(cluster), seeds })
    }
}

/// Of one server.
fn client(info: ConnectionInfo, tls: Option<TlsCertificates>) -> Result<Client, StoreError> {
    let client = match tls {
        Some(tls) => Client::build_with_tls(info, tls),
        None => Client::open(info),
    };
    client.map_err(|_| BAD_TLS)
}

const BAD_TLS: StoreError = StoreError::Tls("the CA, or the client's certificate and key, cannot be used");

/// Says which of the files is not what it is to be.
fn check(tls: &StoreTls) -> Result<(), StoreError> {
    if tls.ca.as_deref().is_some_and(|ca| !is_pem(ca)) {
        return Err(StoreError::Tls("the CA is no PEM file of certificates"));
    }
    let Some((certificate, key)) = &tls.client else { return Ok(()) };
    if !is_pem(certificate) {
        return Err(StoreError::Tls("the client's certificate is no PEM file of certificates"));
    }
    let Ok(key) = PrivateKeyDer::from_pem_slice(key) else {
        return Err(StoreError::Tls("the client's key is no PEM file of a private key"));
    };
    let chain = CertificateDer::pem_slice_iter(certificate).filter_map(Result::ok).collect();
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    match rustls::sign::CertifiedKey::from_der(chain, key, &provider) {
        Ok(_) => Ok(()),
        Err(_) => Err(StoreError::Tls("the client's key and certificate do not belong together")),
    }
}

/// Whether it holds at least one certificate, and nothing that only looks like one.
fn is_pem(certificates: &[u8]) -> bool {
    let mut certificates = CertificateDer::pem_slice_iter(certificates).peekable();
    certificates.peek().is_some() && certificates.all(|certificate| certificate.is_ok())
}

fn certificates(tls: &StoreTls) -> TlsCertificates {
    let client = |(certificate, key): &(Vec<u8>, zeroize::Zeroizing<Vec<u8>>)| ClientTlsConfig {
        client_cert: certificate.clone(),
        client_key: key.to_vec(),
    };
    TlsCertificates { client_tls: tls.client.as_ref().map(client), root_cert: tls.ca.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_url_is_read() {
        for (url, kind, tls, hosts, path) in [
            ("redis://a", Kind::One, false, vec!["a"], ""),
            ("redis://a/?protocol=resp3", Kind::One, false, vec!["a"], "?protocol=resp3"),
            ("rediss://u:p@a:1/3", Kind::One, true, vec!["a:1"], "3"),
            ("redis+sentinel://a,b:2/main/1", Kind::Sentinel, false, vec!["a", "b:2"], "main/1"),
            ("rediss+sentinel://:p@a/main", Kind::Sentinel, true, vec!["a"], "main"),
            ("redis+cluster://a:1,b:2", Kind::Cluster, false, vec!["a:1", "b:2"], ""),
            ("rediss+cluster://[::1]:7", Kind::Cluster, true, vec!["[::1]:7"], ""),
        ] {
            let parts = Parts::split(url).expect("split");
            assert_eq!((parts.kind, parts.tls, parts.hosts, parts.path), (kind, tls, hosts, path), "{url}");
            let client = RedisClient::read(url, &StoreTls::default()).expect("read");
            let expected = match client {
                RedisClient::One(_) => Kind::One,
                RedisClient::Sentinel(_) => Kind::Sentinel,
                RedisClient::Cluster { .. } => Kind::Cluster,
            };
            assert_eq!(kind, expected, "{url}");
        }
    }

    #[test]
    fn one_redis_is_not_told_by_which_library_it_is_asked() {
        for url in ["redis://a", "rediss://u:p@a:1/3", "redis://a/?protocol=resp3"] {
            let Ok(RedisClient::One(client)) = RedisClient::read(url, &StoreTls::default()) else { panic!("{url}") };
            assert!(client.get_connection_info().redis_settings().skip_set_lib_name(), "{url}");
        }
    }

    #[test]
    fn a_url_that_cannot_be_used_is_refused_without_repeating_it() {
        for url in [
            "",
            "memory",
            "http://hush@a",
            "redis://",
            "redis://:hush@",
            "redis://:hush@a,b",
            "redis://:hush@a:port",
            "redis://:hush@a/x",
            "redis+sentinel://:hush@a",
            "redis://a/?password=hush",
            "redis://a?protocol=resp3&password=hush",
            "redis+sentinel://a/main?sentinel_password=hush",
            "redis://:hush#hush@a",
            "redis+cluster://:hush@a/1",
        ] {
            let error =
                RedisClient::read(url, &StoreTls::default()).err().unwrap_or_else(|| panic!("{url} was accepted"));
            assert!(matches!(error, StoreError::Url(_)), "{url}");
            assert!(!format!("{error} {error:?}").contains("hush"));
        }
        let ca = |ca: &[u8]| StoreTls { ca: Some(ca.into()), client: None };
        assert!(matches!(RedisClient::read("rediss://a", &ca(b"hush")), Err(StoreError::Tls(_))));
        let client = Some((b"hush".to_vec(), b"hush".to_vec().into()));
        let not_pem = RedisClient::read("rediss://a", &StoreTls { ca: None, client });
        assert!(matches!(not_pem, Err(StoreError::Tls(_))));
    }
}
