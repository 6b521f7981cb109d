-- FreeSWITCH lets a call wait, has sipwake wake the callee's devices, and bridges when one is there. Needs mod_lua and mod_curl.
-- Not tested by this project. In the dialplan:
--
--   <extension name="sipwake">
--     <condition field="destination_number" expression="^(\w+)$">
--       <action application="ring_ready"/>
--       <action application="lua" data="freeswitch-wake.lua $1 example.com"/>
--       <action application="bridge" data="${sipwake_dial}"/>
--     </condition>
--   </extension>
--
-- The callee's other Contacts (a desk phone) ring when the relay has answered: as soon as a device has come, and after wait_ms where
-- none comes.
--
-- In vars.xml: sipwake_url (https://relay1.example.net:8443/v1/wake), sipwake_key (what stands in the key_file of this
-- server's [[sip_server]] section of the relay) and sipwake_hosts (the upstream.public_host of each relay, with commas between them:
-- the host of its Contacts and of its Path). mod_curl verifies no certificate unless it is told to, and would show the key to whoever
-- answers: put the relay's CA as cacert.pem into FreeSWITCH's certs_dir, or, where a public CA has signed its certificate,
-- <param name="validate-certs" value="true"/> into autoload_configs/curl.conf.xml.

local user, domain = argv[1], argv[2]
local api = freeswitch.API()
local url, key = api:execute("global_getvar", "sipwake_url"), api:execute("global_getvar", "sipwake_key")

local function quoted(text)
    return '"' .. text:gsub('[%c"\\\'%%%s]', "") .. '"'
end

local call = ""
-- A caller who asked for privacy is not named in the push (RFC 3323).
if (session:getVariable("sip_h_Privacy") or "") == "" then
    call = ',"call":{"from":' .. quoted("sip:" .. (session:getVariable("sip_from_uri") or "")) .. "}"
end
local body = '{"aor":' .. quoted("sip:" .. user .. "@" .. domain) .. ',"wait_ms":20000' .. call .. "}"

local options = " timeout 25 content-type application/json append_headers 'Authorization: Bearer " .. key .. "' post "
session:execute("curl", url .. options .. body)

local status = session:getVariable("curl_response_code")
freeswitch.consoleLog("info", "sipwake answered " .. tostring(status) .. "\n")

-- Whether a Contact leads to a relay, by its host or by its Path (fs_path, whose characters are escaped).
local function is_relays(contact)
    for host in (api:execute("global_getvar", "sipwake_hosts") or ""):gmatch("[^,%s]+") do
        -- An answer that is no host says that there is no such variable.
        if host:find("[.:]") and contact:lower():find(host:lower(), 1, true) then
            return true
        end
    end
    return false
end

-- 200: a device waits for the call. 404: none is to be woken. Anything but 504: go on as without it.
local dial = "user/" .. user .. "@" .. domain
if status == "504" then
    -- No device of the relay has come: the Contacts that lead to no relay ring.
    local others = {}
    for contact in (api:execute("sofia_contact", "*/" .. user .. "@" .. domain) or ""):gmatch("[^,]+") do
        if not contact:find("^error/") and not is_relays(contact) then
            others[#others + 1] = contact
        end
    end
    if #others == 0 then
        session:hangup("NO_USER_RESPONSE")
        return
    end
    dial = table.concat(others, ",")
end
session:setVariable("sipwake_dial", dial)
