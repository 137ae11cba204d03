"use strict";
/* A page that stays open: an element with `data-page` is kept up to date by a stream, whose address is `data-live`, or, where there
   is none, by loading the page again every `data-poll-s` seconds. Nothing is asked for while nobody sees the page. */
(() => {
  /* A browser has six connections for all pages of a host: so many of its pages have a stream at once. */
  const MOST_STREAMS = 3;
  const CLAIM_MS = 300;
  const AGAIN_MS = 60000;
  const CURVES_MS = 5000;

  /* Pages of one browser agree on who has a stream. Of those that ask at the same time, the ones with the smaller number come
     first. */
  const me = crypto.getRandomValues(new Uint32Array(2)).join("-");
  const others = "BroadcastChannel" in window ? new BroadcastChannel("adapterctl-streams") : null;
  let claims = false;
  let holders = null;
  others?.addEventListener("message", ({ data }) => {
    if (data.claims && claims && (source !== null || me < data.claims)) others.postMessage({ has: me, to: data.claims });
    if (data.has && data.to === me) holders?.add(data.has);
  });
  const mayStream = async () => {
    claims = true;
    if (others === null) return true;
    holders = new Set();
    others.postMessage({ claims: me });
    await new Promise((done) => { setTimeout(done, CLAIM_MS); });
    const free = holders.size < MOST_STREAMS;
    holders = null;
    if (!free) claims = false;
    return free;
  };

  let element = null;
  let source = null;
  let timer = null;
  let turn = 0;
  const say = (is, text) => {
    const state = document.querySelector("[data-live-state]");
    if (state === null || state.dataset.is === is) return;
    state.dataset.is = is;
    state.textContent = text;
  };

  const close = () => {
    turn += 1;
    source?.close();
    source = null;
    claims = false;
    clearTimeout(timer);
  };

  const find = () => { element = document.querySelector("[data-page]"); return element; };

  /* Load the page again, and put what is new into this one. */
  const refresh = async () => {
    const answer = await fetch(element.dataset.page, { cache: "no-store" }).catch(() => null);
    if (answer === null || answer.status >= 500) { say("lost", "Not connected; trying again"); return false; }
    if (!answer.ok || answer.redirected) { location.reload(); return false; }
    const text = await answer.text();
    if (!document.hidden && find() !== null) {
      const fresh = new DOMParser().parseFromString(text, "text/html").getElementById(element.id);
      if (fresh === null) { location.reload(); return false; }
      await swap(element, fresh);
      drawAgain();
    }
    return true;
  };
  /* Curves are drawn from all their points, so not with each of them. */
  let drawnAt = performance.now();
  const drawAgain = () => {
    if (performance.now() - drawnAt < CURVES_MS) return;
    drawnAt = performance.now();
    for (const figure of document.querySelectorAll("figure[data-curves]")) figure.dispatchEvent(new CustomEvent("curves:refresh"));
  };
  const swap = (target, fresh) => htmx.swap({ target, text: fresh.outerHTML, swap: "outerMorph", sourceElement: target });

  const poll = (seconds) => {
    const mine = turn;
    clearTimeout(timer);
    timer = setTimeout(async () => {
      const done = await refresh();
      if (mine !== turn || find() === null) return;
      if (done) say("polls", `Updated every ${seconds} s`);
      poll(seconds);
    }, seconds * 1000);
  };

  /* Rows of a table: those that are there change, new ones come in their order, and what isn't listed any more goes. */
  const show = async (html) => {
    const holder = document.createElement("template");
    holder.innerHTML = html;
    const body = element.querySelector("tbody");
    if (body === null) { await again(); return; }
    for (const row of [...holder.content.querySelectorAll("tr")]) {
      const has = document.getElementById(row.id);
      if (has === null) {
        if (!row.hasAttribute("data-gone") && body.dataset.adds) body.insertBefore(row, [...body.rows].find((one) => one.dataset.place < row.dataset.place) ?? null);
      } else if (row.hasAttribute("data-gone") && !has.contains(document.activeElement)) {
        has.remove();
      } else {
        await swap(has, row);
        if (row.hasAttribute("data-gone")) has.addEventListener("focusout", () => { if (has.hasAttribute("data-gone")) has.remove(); }, { once: true });
      }
    }
    const most = Number(body.dataset.adds ?? Infinity);
    for (const row of [...body.rows].slice(most)) if (!row.contains(document.activeElement)) row.remove();
    /* Of what was put in by hand. */
    document.dispatchEvent(new CustomEvent("htmx:after:swap"));
  };

  const again = async () => { close(); const mine = turn; if (await refresh() && mine === turn) start(); else if (mine === turn) poll(10); };

  const start = async () => {
    if (document.hidden || find() === null) return;
    close();
    const mine = turn;
    const seconds = Number(element.dataset.pollS || 10);
    if (!element.dataset.live) { say("polls", `Updated every ${seconds} s`); poll(seconds); return; }
    const may = await mayStream();
    if (mine !== turn || document.hidden) { claims = false; return; }
    if (!may) { without(seconds); return; }
    let shown = Promise.resolve();
    source = new EventSource(element.dataset.live);
    const stream = source;
    const current = (act) => (message) => { if (stream === source) shown = shown.then(() => (stream === source ? act(message) : null)); };
    stream.addEventListener("open", () => say("live", "Live"));
    stream.addEventListener("message", current(({ data }) => show(data)));
    stream.addEventListener("changed", current(() => refresh()));
    stream.addEventListener("reload", current(() => again()));
    stream.addEventListener("poll", current(() => { close(); without(seconds); }));
    stream.addEventListener("end", () => location.reload());
    stream.addEventListener("error", () => {
      say("lost", "Not connected; trying again");
      if (stream !== source || stream.readyState !== EventSource.CLOSED) return;
      /* The browser asks no more. Whether there is still a page for this reader is known at once. */
      close();
      askNowAndThen(seconds);
      refresh();
    });
  };
  const without = (seconds) => { say("polls", `Updated every ${seconds} s`); askNowAndThen(seconds); };
  /* And after a while for a stream again. */
  const askNowAndThen = (seconds) => {
    poll(seconds);
    const mine = turn;
    setTimeout(() => { if (mine === turn) start(); }, AGAIN_MS);
  };

  document.addEventListener("visibilitychange", () => {
    if (document.hidden) close();
    /* What was shown may be of an hour ago, and of other rights. */
    else if (find() !== null) again();
  });
  addEventListener("pagehide", close);
  addEventListener("pageshow", ({ persisted }) => { if (persisted && find() !== null) again(); });
  document.addEventListener("DOMContentLoaded", () => { if (find() !== null) start(); });
})();
