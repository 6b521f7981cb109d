//! One name server, as hickory's resolver asks it.
//!
//! | what it says | what follows |
//! | --- | --- |
//! | records, or that there are none | that is the answer |
//! | an error (SERVFAIL, REFUSED, FORMERR, NOTIMP and the like) | the next name server is asked; where each says one, there is no answer |
//! | that the owner of SRV or NAPTR records is an alias (CNAME), with those records or without | the records of the name that it stands for (RFC 1034 §3.6.2) |
//!
//! hickory takes the first error for the answer of all, and finds no SRV records behind an alias.
//!
//! Invariant: no question has an OPT record (EDNS): a name server may refuse one, or say nothing at all, and what does not fit into 512 bytes
//! comes by TCP (RFC 7766 §5). At most [`ALIASES_MAX`] aliases are followed; more of them are an error.

use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::time::Duration;

use futures_util::stream::{Stream, once};
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::xfer::{DnsExchange, DnsHandle, FirstAnswer as _};
use hickory_resolver::proto::op::{DnsRequest, DnsResponse, Query, ResponseCode};
use hickory_resolver::proto::rr::rdata::CNAME;
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};
use hickory_resolver::{ConnectionProvider, PoolContext, Resolver};

use super::answer_size::bounded;

/// One question to one name server; asked twice.
const QUERY_TIMEOUT: Duration = Duration::from_millis(1_200);
/// Aliases between the owner of a question and its records.
const ALIASES_MAX: usize = 8;

/// A resolver of one name server, which remembers nothing.
pub(crate) fn one(servers: ResolverConfig, options: ResolverOpts) -> Result<Resolver<NameServers>, NetError> {
    let mut builder = Resolver::builder_with_config(servers, NameServers::default());
    *builder.options_mut() = options;
    builder.build()
}

/// The name server at an address, asked over UDP and then TCP.
pub(super) fn name_server(address: SocketAddr) -> NameServerConfig {
    let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()];
    let connections = connections.map(|mut connection| {
        connection.port = address.port();
        connection
    });
    NameServerConfig::new(address.ip(), true, connections.into())
}

/// How each name server is asked.
pub(crate) fn options() -> ResolverOpts {
    let mut options = ResolverOpts::default();
    options.timeout = QUERY_TIMEOUT;
    options.attempts = 1;
    options.edns0 = false;
    // Answers are remembered above, before a question is counted.
    options.cache_size = 0;
    options.use_hosts_file = ResolveHosts::Never;
    options.max_active_requests = 4_096;
    options
}

/// Whether the error says that no name server has answered: what one of them says is an answer, whatever it is, and that each says an error is
/// [`NetError::NoConnections`].
pub(super) fn is_silence(error: &NetError) -> bool {
    !matches!(error, NetError::Dns(_) | NetError::NoConnections)
}

/// The connections to name servers.
#[derive(Clone, Default)]
pub(super) struct NameServers(TokioRuntimeProvider);

/// A connection to one.
#[derive(Clone)]
pub(super) struct NameServer(DnsExchange<TokioRuntimeProvider>);

impl ConnectionProvider for NameServers {
    type Conn = NameServer;
    type FutureConn = Pin<Box<dyn Future<Output = Result<NameServer, NetError>> + Send>>;
    type RuntimeProvider = TokioRuntimeProvider;

    fn new_connection(
        &self,
        ip: IpAddr,
        config: &ConnectionConfig,
        cx: &PoolContext,
    ) -> Result<Self::FutureConn, NetError> {
        let connecting = self.0.new_connection(ip, config, cx)?;
        Ok(Box::pin(async move { connecting.await.map(NameServer) }))
    }

    fn runtime_provider(&self) -> &Self::RuntimeProvider {
        &self.0
    }
}

impl DnsHandle for NameServer {
    type Response = Pin<Box<dyn Stream<Item = Result<DnsResponse, NetError>> + Send>>;
    type Runtime = TokioRuntimeProvider;

    fn send(&self, request: DnsRequest) -> Self::Response {
        let exchange = self.0.clone();
        Box::pin(once(async move { answer(&exchange, request).await }))
    }
}

async fn answer(server: &impl DnsHandle, request: DnsRequest) -> Result<DnsResponse, NetError> {
    let response = ask(server, request.clone()).await?;
    match request.queries.first() {
        Some(query) if matches!(query.query_type(), RecordType::SRV | RecordType::NAPTR) => {
            of_owner(server, &request, query.clone(), response).await
        }
        _ => Ok(response),
    }
}

/// One question; its answer may be that there is nothing.
async fn ask(server: &impl DnsHandle, request: DnsRequest) -> Result<DnsResponse, NetError> {
    let kind = request.queries.first().map(|query| query.query_type());
    let response = server.send(request).first_answer().await?;
    match response.response_code {
        ResponseCode::NoError | ResponseCode::NXDomain => match kind {
            Some(kind) => Ok(bounded(response, kind)?),
            None => Ok(response),
        },
        // The error with which hickory asks the next, and has nothing against this one: who names a domain that is lame changes no order.
        _ => Err(NetError::NoConnections),
    }
}

/// The records of the name that the owner stands for, as the owner's.
async fn of_owner(
    server: &impl DnsHandle,
    request: &DnsRequest,
    query: Query,
    mut response: DnsResponse,
) -> Result<DnsResponse, NetError> {
    let kind = query.query_type();
    let (mut owner, mut ttl) = (query.name().clone(), u32::MAX);
    for _ in 0..=ALIASES_MAX {
        if response.truncation {
            // A truncated answer is asked for again, by TCP.
            return Ok(response);
        }
        let stands_for = behind(&response.answers, &owner, &mut ttl);
        let is_alias = stands_for != owner;
        owner = stands_for;
        if owner == *query.name() {
            return Ok(response);
        }
        let is_told = response.answers.iter().any(|record| is_of(record, &owner, kind));
        // A SOA record says that the name server has looked at the end of the aliases itself (RFC 2308 §2).
        let has_ended = response.soa().is_some() || response.response_code == ResponseCode::NXDomain;
        if is_told || has_ended || !is_alias {
            let mut message = response.into_message();
            message.queries = vec![query.clone()];
            message.answers.retain(|record| is_of(record, &owner, kind));
            for record in &mut message.answers {
                record.name = query.name().clone();
                record.ttl = record.ttl.min(ttl);
            }
            return Ok(DnsResponse::from_message(message)?);
        }
        let mut further = request.clone();
        further.queries = vec![Query::query(owner.clone(), kind)];
        response = ask(server, further).await?;
    }
    Err(NetError::NoConnections)
}

fn is_of(record: &Record, owner: &Name, kind: RecordType) -> bool {
    record.record_type() == kind && record.name == *owner
}

/// The name that `owner` stands for by these records, and how long they hold.
fn behind(records: &[Record], owner: &Name, ttl: &mut u32) -> Name {
    let mut name = owner;
    for _ in 0..ALIASES_MAX {
        let alias = records.iter().find_map(|record| match &record.data {
            RData::CNAME(CNAME(other)) if record.name == *name => Some((other, record.ttl)),
            _ => None,
        });
        let Some((other, valid)) = alias else { break };
        (name, *ttl) = (other, valid.min(*ttl));
    }
    name.clone()
}
