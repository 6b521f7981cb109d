//! The FreeSWITCH recipe, run by Lua with stand-ins for what FreeSWITCH gives a script.

use mlua::{Lua, Table};

const RECIPE: &str = include_str!("../../../docker/recipes/freeswitch-wake.lua");
/// The things that a script is given: its arguments, a session, an API; `told` has what it has done.
const FREESWITCH: &str = r#"
    argv = { "alice", "example.com" }
    told = { dial = nil, hangup = nil, asked = nil }
    local variables = { curl_response_code = status, sip_from_uri = "bob@example.com" }
    local globals = { sipwake_url = "https://relay1.example.net:8443/v1/wake", sipwake_key = "k", sipwake_hosts = hosts }
    session = {
        getVariable = function(_, name) return variables[name] end,
        setVariable = function(_, name, value) if name == "sipwake_dial" then told.dial = value end end,
        execute = function(_, name, data) if name == "curl" then told.asked = data end end,
        hangup = function(_, cause) told.hangup = cause end,
    }
    freeswitch = {
        consoleLog = function() end,
        API = function()
            return { execute = function(_, name, data)
                if name == "global_getvar" then return globals[data] or "" end
                if name == "sofia_contact" and data == "*/alice@example.com" then return contacts end
            end }
        end,
    }
"#;

const DESK: &str = "sofia/internal/sip:alice@192.0.2.7:5060";
const LENT: &str = "sofia/internal/sip:b1a2@Relay1.example.net:5071;transport=tls";
const PASSED: &str = "sofia/internal/sip:alice@10.0.0.9:5061;fs_path=sip%3Atoken%40relay2.example.net%3A5071%3Blr";
const RELAYS: &str = "relay1.example.net, relay2.example.net";

/// The Contacts that are dialled, and why the call ends, when the relay answers so.
fn run(status: &str, contacts: &str, hosts: &str) -> (Option<String>, Option<String>) {
    let lua = Lua::new();
    let globals = lua.globals();
    for (name, value) in [("status", status), ("contacts", contacts), ("hosts", hosts)] {
        globals.set(name, value).unwrap();
    }
    lua.load(FREESWITCH).exec().unwrap();
    lua.load(RECIPE).set_name("freeswitch-wake.lua").exec().unwrap();
    let told: Table = globals.get("told").unwrap();
    let asked: String = told.get("asked").unwrap();
    assert!(asked.contains(r#"{"aor":"sip:alice@example.com","wait_ms":20000,"call":{"from":"sip:bob@example.com"}}"#));
    (told.get("dial").unwrap(), told.get("hangup").unwrap())
}

#[test]
fn freeswitch_dials_the_contacts_that_lead_to_no_relay_when_no_device_has_come() {
    let whole = Some("user/alice@example.com".to_owned());
    for status in ["200", "404", "503", ""] {
        assert_eq!(run(status, LENT, RELAYS), (whole.clone(), None), "{status}");
    }
    let all = [LENT, DESK, PASSED].join(",");
    assert_eq!(run("504", &all, RELAYS), (Some(DESK.to_owned()), None));
    assert_eq!(run("504", &all, ""), (Some(all.clone()), None), "none is named: all ring");
    assert_eq!(run("504", &all, "-ERR no reply"), (Some(all.clone()), None));
    for nobody in [LENT, PASSED, "error/user_not_registered"] {
        assert_eq!(run("504", nobody, RELAYS), (None, Some("NO_USER_RESPONSE".to_owned())), "{nobody}");
    }
}
