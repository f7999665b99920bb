// Keeps a page current, where a browser has scripts. Without them, each page says when it was true and has a link to load
// it again.
"use strict";

(() => {
  // The browser's zone, until somebody chooses another: from the next page on, times are shown in it.
  const zone = Intl.DateTimeFormat().resolvedOptions().timeZone;
  if (zone && !document.cookie.includes("carebell_zone=")) {
    document.cookie = `carebell_zone=${zone}; path=/; max-age=31536000; samesite=lax`;
  }

  const live = document.querySelector("[data-live-from]");
  if (!live || !window.EventSource) return;

  const status = document.getElementById("live-status");
  let source = null;
  let isLoading = false;
  let isMissed = false;

  const say = (text) => {
    if (status && status.textContent !== text) status.textContent = text;
  };

  // Replaces the parts that are marked, except one that somebody is using.
  const swap = (page) => {
    for (const fresh of page.querySelectorAll("[data-live]")) {
      const old = document.getElementById(fresh.id);
      if (!old || old.contains(document.activeElement) || old.querySelector("details[open]")) continue;
      if (old.innerHTML !== fresh.innerHTML) old.replaceWith(fresh);
    }
  };

  const load = async () => {
    // One question at a time, and none for a page that nobody sees.
    if (isLoading || document.hidden) {
      isMissed = true;
      return;
    }
    isLoading = true;
    isMissed = false;
    try {
      const answer = await fetch(location.href, { headers: { Accept: "text/html" }, redirect: "error" });
      if (!answer.ok) throw new Error(String(answer.status));
      swap(new DOMParser().parseFromString(await answer.text(), "text/html"));
      say("Live");
    } catch {
      say("Not live: the last answer failed. It is tried again.");
    } finally {
      isLoading = false;
    }
  };

  const open = () => {
    if (source) return;
    source = new EventSource(live.dataset.liveFrom);
    source.addEventListener("changed", load);
    source.addEventListener("open", () => say("Live"));
    source.addEventListener("error", () => say("Not live: the connection is lost. It is tried again."));
  };

  const close = () => {
    if (source) source.close();
    source = null;
  };

  document.addEventListener("visibilitychange", () => {
    if (document.hidden) return close();
    open();
    if (isMissed) load();
  });
  window.addEventListener("pagehide", close);
  open();
})();
