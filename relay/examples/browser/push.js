// The service worker of the page beside this file: it gets the pushes while the page sleeps or is closed. A page that is open is told; each push
// is shown as a notification as well, as the subscription (userVisibleOnly) promises, and who clicks that of a call has the page ring.
"use strict";

self.addEventListener("install", () => self.skipWaiting());
self.addEventListener("activate", (event) => event.waitUntil(self.clients.claim()));
self.addEventListener("push", (event) => event.waitUntil(onPush(event.data.json())));
self.addEventListener("notificationclick", (event) => event.waitUntil(onClick(event.notification)));

// What is said of what is no call; the page renews the lease when it is opened, and a worker has no secret to do it with.
const NOTICES = {
  "call-ended": "The call is over",
  "missed-call": "A missed call",
  "message": "A message",
  "voicemail": "Voicemail",
  "renew": "Open the page to keep your calls",
  "expiring": "Open the page to keep your calls",
  "expired": "No calls come any more: lend the account again",
  "registration-lost": "No calls come any more: lend the account again",
  "registration-failing": "Calls may not come",
  "registration-restored": "Calls come again",
};

async function onPush(push) {
  for (const page of await pages()) page.postMessage(push);
  // One notification for one call, one message, one lease and one registration, however often it is pushed: the newest.
  const lease = ["renew", "expiring", "expired"].includes(push.event) && "lease";
  const tag = push.call || push.message || lease || push.event.split("-")[0];
  const isCall = push.event === "call";
  try {
    // That a call was missed says more than that it is over.
    const shown = await self.registration.getNotifications({ tag });
    if (push.event === "call-ended" && shown.some(({ data }) => data?.event === "missed-call")) return;
    const title = isCall ? push.name || push.from || "A call" : NOTICES[push.event] || push.event;
    const body = isCall ? push.from : push.name || push.from || push.reason;
    await self.registration.showNotification(title, { tag, body, requireInteraction: isCall, data: push });
  } catch {
    // The user has not allowed notifications: an open page rings all the same.
  }
}

async function onClick(notification) {
  notification.close();
  const [page] = await pages();
  if (page) return page.focus();
  return self.clients.openWindow(`./#${encodeURIComponent(JSON.stringify(notification.data))}`);
}

function pages() {
  return self.clients.matchAll({ type: "window", includeUncontrolled: true });
}
