//! The real Linphone as a stock device, on the command line: it registers over TLS and is told on its standard input what
//! to do.
//!
//! Invariant: it trusts the test's authority alone; everything it keeps lives in a directory of its own; it ends with its
//! handle.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::authority::Authority;
use crate::baresip::Account;
use crate::board::Missed;
use crate::child::Child;
use crate::scratch::Scratch;

/// Debian's package with Linphone for the command line.
const PACKAGE: &str = "linphone-cli";

/// A running linphonec.
pub struct Linphone {
    child: Child,
    _scratch: Scratch,
}

impl Linphone {
    /// Starts it, which makes it register.
    ///
    /// # Errors
    /// [`Missed`] when it is not installed.
    pub fn start(account: &Account, realm: &str, authority: &Authority) -> Result<Self, Missed> {
        Self::start_trusting(account, realm, &authority.ca_file())
    }

    /// As [`Self::start`], with this CA.
    ///
    /// # Errors
    /// [`Missed`] when it is not installed.
    pub fn start_trusting(account: &Account, realm: &str, ca: &Path) -> Result<Self, Missed> {
        Self::start_with("", account, realm, ca)
    }

    /// As [`Self::start`], with the account's proxy as its one outbound proxy, and the parameters by which that one wakes it
    /// (RFC 8599): `pn-provider=fcm;pn-param=…;pn-prid=…`. Its SIP server is the domain of its AOR.
    ///
    /// # Errors
    /// [`Missed`] when it is not installed.
    pub fn start_woken(pn: &str, account: &Account, realm: &str, authority: &Authority) -> Result<Self, Missed> {
        let further = format!("reg_route=<{};lr>\ncontact_uri_parameters={pn}\n", account.proxy);
        Self::start_with(&further, account, realm, &authority.ca_file())
    }

    /// As [`Self::start_woken`], without any such parameter.
    ///
    /// # Errors
    /// [`Missed`] when it is not installed.
    pub fn start_through(account: &Account, realm: &str, authority: &Authority) -> Result<Self, Missed> {
        Self::start_with(&format!("reg_route=<{};lr>\n", account.proxy), account, realm, &authority.ca_file())
    }

    fn start_with(further: &str, account: &Account, realm: &str, ca: &Path) -> Result<Self, Missed> {
        let scratch = Scratch::new();
        // Without a place for its database it opens no transport.
        let _ = std::fs::create_dir_all(scratch.path().join(".local/share/linphone"));
        let config = scratch.file("linphonerc", configuration(further, account, realm, ca));
        let mut command = Command::new("linphonec");
        command.arg("-c").arg(config).args(["-d", "6", "-l"]).arg("/dev/stdout").env("HOME", scratch.path());
        for place in ["XDG_CONFIG_HOME", "XDG_DATA_HOME"] {
            command.env_remove(place);
        }
        let child = Child::spawn_listening(command, PACKAGE)?;
        Ok(Self { child, _scratch: scratch })
    }

    /// Waits until it has registered.
    ///
    /// # Errors
    /// [`Missed`] when it has not `within` the time.
    pub async fn await_registered(&self, within: Duration) -> Result<(), Missed> {
        self.child.await_line("LinphoneRegistrationOk", within).await.map(drop)
    }

    /// Waits until a call comes in.
    ///
    /// # Errors
    /// [`Missed`] when none does `within` the time.
    pub async fn await_incoming(&self, within: Duration) -> Result<(), Missed> {
        self.child.await_line("LinphoneCallIncomingReceived", within).await.map(drop)
    }

    /// Calls somebody.
    ///
    /// # Errors
    /// [`Missed`] when it has ended.
    pub fn call(&self, uri: &str) -> Result<(), Missed> {
        self.child.say(&format!("call {uri}"))
    }

    /// Waits until a call has ended.
    ///
    /// # Errors
    /// [`Missed`] when none has `within` the time.
    pub async fn await_ended(&self, within: Duration) -> Result<(), Missed> {
        self.child.await_line("LinphoneCallReleased", within).await.map(drop)
    }

    /// Takes the call that rings.
    ///
    /// # Errors
    /// [`Missed`] when it has ended.
    pub fn accept(&self) -> Result<(), Missed> {
        self.child.say("answer")
    }

    /// Ends the call.
    ///
    /// # Errors
    /// [`Missed`] when it has ended.
    pub fn hang_up(&self) -> Result<(), Missed> {
        self.child.say("terminate")
    }

    /// Waits until the call is established.
    ///
    /// # Errors
    /// [`Missed`] when it is not `within` the time.
    pub async fn await_established(&self, within: Duration) -> Result<(), Missed> {
        self.child.await_line("LinphoneCallStreamsRunning", within).await.map(drop)
    }

    /// Everything that it printed.
    pub fn output(&self) -> String {
        self.child.output()
    }
}

fn configuration(further: &str, account: &Account, realm: &str, ca: &Path) -> String {
    let Account { proxy, aor, username, password, regint, .. } = account;
    format!(
        "[sip]\nsip_port=0\nsip_tcp_port=0\nsip_tls_port=-2\nguess_hostname=0\nuse_ipv6=0\nipv6_migration_done=1\n\
         root_ca={}\nverify_server_certs=1\nverify_server_cn=1\ndefault_proxy=0\nregister_only_when_network_is_up=0\n\n\
         [proxy_0]\nreg_proxy=<{proxy}>\nreg_identity={aor}\nreg_expires={regint}\n\
         reg_sendregister=1\npublish=0\n{further}\n\
         [auth_info_0]\nusername={username}\npasswd={password}\nrealm={realm}\n\n\
         [net]\nmtu=1300\nfirewall_policy=none\n\n[misc]\nuuid=\n",
        ca.display()
    )
}
