// The service worker of the page beside this file: it gets the pushes while the page sleeps or is closed. A page that is open is told; a
// call is shown as a notification as well, and who clicks it has the page ring.
"use strict";

self.addEventListener("install", () => self.skipWaiting());
self.addEventListener("activate", (event) => event.waitUntil(self.clients.claim()));
self.addEventListener("push", (event) => event.waitUntil(onPush(event.data.json())));
self.addEventListener("notificationclick", (event) => event.waitUntil(onClick(event.notification)));

async function onPush(push) {
  for (const page of await pages()) page.postMessage(push);
  try {
    if (push.event === "call") {
      // One notification for one call, however often it is pushed.
      const options = { tag: push.call, body: push.from, requireInteraction: true, data: push };
      await self.registration.showNotification(push.name || push.from || "A call", options);
    } else if (push.event === "call-ended") {
      for (const shown of await self.registration.getNotifications({ tag: push.call })) shown.close();
    }
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
