//! The real SIPp as the caller: one call over UDP to an AOR, through the SIP server that serves it.
//!
//! Invariant: it succeeds only when every message of its scenario came in order and nothing unexpected did; it ends with
//! its handle and at its deadline.

use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use crate::board::Missed;
use crate::child::Child;
use crate::ports;
use crate::scratch::Scratch;

/// Debian's package with SIPp.
const PACKAGE: &str = "sip-tester";

/// How the call goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scenario {
    /// Answered; the caller ends it after 300 ms.
    CallerHangsUp,
    /// Answered; the callee ends it.
    CalleeHangsUp,
    /// Answered; the callee holds the call, by one re-INVITE or by two (hold and resume), and the caller ends it.
    CallerIsHeld {
        /// How many re-INVITEs come.
        reinvites: u8,
    },
    /// Answered; the caller holds the call and resumes it, and ends it.
    CallerHolds,
    /// The phone rings (180); the caller cancels 100 ms later, and gets 487.
    CallerCancels,
    /// Refused with this status.
    Refused(u16),
    /// No call: a MESSAGE ("Call me back, please"), answered with this status.
    Writes(u16),
    /// No call: a NOTIFY that three messages are new in the mailbox and four old, one of the new ones urgent.
    MailboxChanges,
}

/// A call that runs.
pub struct Sipp {
    child: Child,
    scratch: Scratch,
}

impl Sipp {
    /// Calls `user` of `domain` through `server`; the whole call may last `within`.
    ///
    /// # Errors
    /// [`Missed`] when SIPp is not installed.
    pub fn call(
        scenario: Scenario,
        server: SocketAddr,
        user: &str,
        domain: &str,
        within: Duration,
    ) -> Result<Self, Missed> {
        let scratch = Scratch::new();
        let file = scratch.file("scenario.xml", scenario.xml());
        let mut command = Command::new("sipp");
        command.arg(server.to_string()).arg("-sf").arg(file).args(["-s", user, "-key", "domain", domain]);
        // SIPp also takes the second port above that for audio, for video, and ends at once where it cannot.
        let media = ports::free_row(3);
        command.args(["-i", "127.0.0.1", "-p", &ports::free().to_string(), "-mp", &media.to_string()]);
        command.args(["-m", "1", "-nostdin", "-trace_msg", "-trace_err", "-timeout_error"]);
        command.args(["-timeout", &format!("{}s", within.as_secs().max(1))]);
        command.arg("-message_file").arg(scratch.path().join("messages.log"));
        command.arg("-error_file").arg(scratch.path().join("errors.log"));
        command.current_dir(scratch.path()).env("TERM", "dumb");
        Ok(Self { child: Child::spawn(command, PACKAGE)?, scratch })
    }

    /// Waits for the end of the call, and gives the messages that went over the wire.
    ///
    /// # Errors
    /// [`Missed`] when the call went another way than the scenario, or runs on after `within`.
    pub async fn finish(self, within: Duration) -> Result<String, Missed> {
        let exit = self.child.exit(within).await;
        let messages = self.file("messages.log");
        match exit {
            Ok(status) if status.success() => Ok(messages),
            Ok(status) => {
                Err(Missed::new("the SIPp scenario", format!("{status}\n{}\n{messages}", self.file("errors.log"))))
            }
            Err(late) => Err(Missed::new(late.awaited, format!("{}\n{messages}", late.seen))),
        }
    }

    fn file(&self, name: &str) -> String {
        std::fs::read_to_string(self.scratch.path().join(name)).unwrap_or_default()
    }
}

impl Scenario {
    fn xml(self) -> String {
        let text = match self {
            Self::CallerHangsUp => include_str!("../sipp/caller-hangs-up.xml").to_owned(),
            Self::CalleeHangsUp => include_str!("../sipp/callee-hangs-up.xml").to_owned(),
            Self::CallerIsHeld { reinvites } => {
                include_str!("../sipp/caller-is-held.xml").replace("@HELD@", &HELD.repeat(reinvites.into()))
            }
            Self::CallerHolds => include_str!("../sipp/caller-holds.xml")
                .replace("@HOLD@", &reinvite(2, "sendonly"))
                .replace("@RESUME@", &reinvite(3, "sendrecv"))
                .replace("@BYE@", &BYE.replace("CSeq: 2", "CSeq: 4")),
            Self::CallerCancels => include_str!("../sipp/caller-cancels.xml").to_owned(),
            Self::Refused(status) => {
                include_str!("../sipp/caller-is-refused.xml").replace("@STATUS@", &status.to_string())
            }
            Self::Writes(status) => include_str!("../sipp/caller-writes.xml").replace("@STATUS@", &status.to_string()),
            Self::MailboxChanges => include_str!("../sipp/mailbox-changes.xml").to_owned(),
        };
        // The ACK to a failure belongs to the INVITE's transaction: its branch is that of the first message (index 0).
        let messages_before_failure_ack = text.split("@ACK-TO-FAILURE@").next().map_or(0, count_messages);
        let failure_ack = ACK_TO_FAILURE.replace("@BACK@", &messages_before_failure_ack.to_string());
        text.replace("@INVITE@", INVITE)
            .replace("@ACK@", ACK)
            .replace("@BYE@", BYE)
            .replace("@ACK-TO-FAILURE@", &failure_ack)
    }
}

/// A re-INVITE of the caller's with this direction, its 200 and the ACK.
fn reinvite(cseq: u32, direction: &str) -> String {
    REINVITE.replace("@CSEQ@", &cseq.to_string()).replace("@DIRECTION@", direction)
}

/// How many messages (and pauses) stand before this point, the INVITE among them.
fn count_messages(text: &str) -> usize {
    text.matches("<recv").count() + text.matches("<send").count() + text.matches("<pause").count() + 1
}

/// The headers of a request of Carol's within its dialog, from the Via to the Call-ID.
macro_rules! in_dialog {
    () => {
        r#"Via: SIP/2.0/[transport] [local_ip]:[local_port];branch=[branch]
Max-Forwards: 70
[routes]
From: "Carol" <sip:carol@[domain]>;tag=[call_number]
To: <sip:[service]@[domain]>[peer_tag_param]
Call-ID: [call_id]
"#
    };
}

/// Her Contact, and her offer or answer of this version.
macro_rules! with_sdp {
    ($version:literal) => {
        concat!(
            "Contact: <sip:carol@[local_ip]:[local_port]>\nContent-Type: application/sdp\nContent-Length: [len]\n\n",
            "v=0\no=- 1 ",
            $version,
            " IN IP4 [local_ip]\ns=-\nc=IN IP4 [media_ip]\nt=0 0\n",
            "m=audio [media_port] RTP/AVP 0\na=rtpmap:0 PCMU/8000\n"
        )
    };
}

const INVITE: &str = concat!(
    r#"  <send retrans="500"><![CDATA[

INVITE sip:[service]@[domain] SIP/2.0
Via: SIP/2.0/[transport] [local_ip]:[local_port];branch=[branch]
Max-Forwards: 70
From: "Carol" <sip:carol@[domain]>;tag=[call_number]
To: <sip:[service]@[domain]>
Call-ID: [call_id]
CSeq: 1 INVITE
"#,
    with_sdp!("1"),
    "\n]]></send>"
);

const ACK: &str = concat!(
    "  <send><![CDATA[\n\nACK [next_url] SIP/2.0\n",
    in_dialog!(),
    "CSeq: 1 ACK\nContent-Length: 0\n\n]]></send>"
);

const ACK_TO_FAILURE: &str = r#"  <send><![CDATA[

ACK sip:[service]@[domain] SIP/2.0
Via: SIP/2.0/[transport] [local_ip]:[local_port];branch=[branch-@BACK@]
Max-Forwards: 70
From: "Carol" <sip:carol@[domain]>;tag=[call_number]
To: <sip:[service]@[domain]>[peer_tag_param]
Call-ID: [call_id]
CSeq: 1 ACK
Content-Length: 0

]]></send>"#;

const BYE: &str = concat!(
    "  <send retrans=\"500\"><![CDATA[\n\nBYE [next_url] SIP/2.0\n",
    in_dialog!(),
    "CSeq: 2 BYE\nContent-Length: 0\n\n]]></send>\n  <recv response=\"200\"/>"
);

/// The callee's re-INVITE, the 200 with the mirrored direction, and its ACK.
const HELD: &str = concat!(
    r#"  <recv request="INVITE"/>
  <send retrans="500"><![CDATA[

SIP/2.0 200 OK
[last_Via:]
[last_Record-Route:]
[last_From:]
[last_To:]
[last_Call-ID:]
[last_CSeq:]
"#,
    with_sdp!("2"),
    "\n]]></send>\n  <recv request=\"ACK\"/>\n"
);

const REINVITE: &str = concat!(
    "  <send retrans=\"500\"><![CDATA[\n\nINVITE [next_url] SIP/2.0\n",
    in_dialog!(),
    "CSeq: @CSEQ@ INVITE\n",
    with_sdp!("@CSEQ@"),
    "a=@DIRECTION@\n\n]]></send>\n  <recv response=\"100\" optional=\"true\"/>\n  <recv response=\"200\"/>\n",
    "  <send><![CDATA[\n\nACK [next_url] SIP/2.0\n",
    in_dialog!(),
    "CSeq: @CSEQ@ ACK\nContent-Length: 0\n\n]]></send>"
);
