//! A push service that takes everything: HTTP/1.1 without TLS, as Kamailio's own client speaks it.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::load::accounts;
use crate::load::caller::Caller;
use crate::load::devices::Devices;
use crate::wire::Tasks;

const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";

/// The receivers of pushes: the caller, and the devices that come then.
type Told = Arc<OnceLock<(Arc<Caller>, Option<Arc<Devices>>)>>;

/// The stand-in.
pub(super) struct PushStandIn {
    address: SocketAddr,
    told: Told,
    _tasks: Tasks,
}

impl PushStandIn {
    pub(super) async fn open() -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let (address, tasks, told) = (listener.local_addr()?, Tasks::default(), Arc::default());
        tasks.own(tokio::spawn(accept(listener, Arc::clone(&told))).abort_handle());
        Ok(Self { address, told, _tasks: tasks })
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Tells these of each push from now on: the devices come.
    pub(super) fn tell(&self, caller: Arc<Caller>, devices: Option<Arc<Devices>>) {
        // Once for a run.
        let _ = self.told.set((caller, devices));
    }
}

async fn accept(listener: TcpListener, told: Told) {
    let connections = Tasks::default();
    while let Ok((stream, _)) = listener.accept().await {
        connections.own(tokio::spawn(serve(stream, told.clone())).abort_handle());
    }
}

async fn serve(mut stream: TcpStream, told: Told) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut seen = Vec::new();
    loop {
        let Some((length, token)) = whole_request(&seen) else {
            if stream.read_buf(&mut seen).await? == 0 {
                return Ok(());
            }
            continue;
        };
        let at = Instant::now();
        seen.drain(..length);
        if let (Some((caller, devices)), Some(account)) = (told.get(), accounts::of_user(&token))
            && caller.on_push(account, at)
            && let Some(devices) = devices.clone()
        {
            tokio::spawn(async move { devices.come(account).await });
        }
        stream.write_all(ANSWER).await?;
    }
}

/// The length of the first request, once it is whole, and the token in its body.
fn whole_request(seen: &[u8]) -> Option<(usize, String)> {
    let head = memchr::memmem::find(seen, b"\r\n\r\n")? + 4;
    let text = String::from_utf8_lossy(&seen[..head]).to_ascii_lowercase();
    let length: Option<usize> = text.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok());
    let end = head + length.unwrap_or(0);
    let body: serde_json::Value = serde_json::from_slice(seen.get(head..end)?).unwrap_or_default();
    Some((end, body["token"].as_str().unwrap_or_default().to_owned()))
}
