-- FreeSWITCH holds a call, has sipwake wake the callee's devices, and bridges when one is there. Needs mod_lua and mod_curl.
-- Not tested by this project. In the dialplan:
--
--   <extension name="sipwake">
--     <condition field="destination_number" expression="^(\w+)$">
--       <action application="ring_ready"/>
--       <action application="lua" data="freeswitch-wake.lua $1 example.com"/>
--       <action application="bridge" data="user/$1@example.com"/>
--     </condition>
--   </extension>
--
-- In vars.xml: sipwake_url (https://relay1.example.net:8443/v1/wake) and sipwake_key (what stands in the key_file of this
-- server's [[sip_server]] section of the relay). mod_curl verifies no certificate unless it is told to, and would show the key to whoever
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
-- 200: a device waits for the call. 404: none is known to the relay. Anything but 504: go on as without it.
if status == "504" then
    session:hangup("NO_USER_RESPONSE")
end
