// What all pages share: keys, local times, lists that stay up to date. Everything works without it, but for being live.
// Other scripts find it as `window.sidestream`: `keys.add`, `times`, `listen`, `step`.
"use strict";

(() => {
  const base = document.body.dataset.base;

  // Keys ------------------------------------------------------------------------------------------------------------

  const keys = new Map();
  const OFF = "sidestream keys off";
  let off = false;
  try {
    off = localStorage.getItem(OFF) !== null;
  } catch {
    // not to be remembered, then
  }
  const PATIENCE = 1000; // milliseconds between the two keys of a sequence such as "g r"
  let begun = "";
  let beganAt = 0;

  /** Have a key ("j", "Escape"), or two in a row ("g r"), do something; `run(event)` returns false to leave it alone. */
  function add(key, description, run) {
    keys.set(key, { description, run });
  }

  function typing(target) {
    return target.isContentEditable || /^(INPUT|TEXTAREA|SELECT)$/.test(target.tagName);
  }

  function press(event) {
    if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
    if (document.querySelector("dialog[open]")) return;
    if (typing(event.target)) {
      if (event.key === "Escape") event.target.blur();
      return;
    }
    if (off && event.key.length === 1) return;
    const two = event.timeStamp - beganAt < PATIENCE ? `${begun} ${event.key}` : "";
    begun = event.key;
    beganAt = event.timeStamp;
    const known = keys.get(two) || keys.get(event.key);
    if (known && known.run(event) !== false) event.preventDefault();
  }

  const NAMES = { ArrowDown: "↓", ArrowUp: "↑", Enter: "Enter", Escape: "Esc" };

  function help() {
    const dialog = document.getElementById("keys");
    const list = dialog.querySelector("dl");
    list.replaceChildren();
    const byDescription = new Map();
    for (const [key, { description }] of keys) {
      if (description) byDescription.set(description, [...(byDescription.get(description) || []), key]);
    }
    for (const [description, names] of byDescription) {
      const term = document.createElement("dt");
      names.forEach((name, place) => {
        if (place) term.append(" / ");
        name.split(" ").forEach((part, index) => {
          if (index) term.append(" ");
          const key = document.createElement("kbd");
          key.textContent = NAMES[part] || part;
          term.append(key);
        });
      });
      const text = document.createElement("dd");
      text.textContent = description;
      list.append(term, text);
    }
    dialog.showModal();
  }

  function turn(on) {
    off = !on;
    try {
      if (on) localStorage.removeItem(OFF);
      else localStorage.setItem(OFF, "");
    } catch {
      // until the page is left
    }
  }

  // Lists: what has the focus is what is selected ---------------------------------------------------------------------

  const items = () => [...document.querySelectorAll("[data-item]")];
  const link = (item) => item.querySelector("a.title") || item.querySelector("a");

  /** Give the focus to the next item of the list, or the one before. */
  function step(by) {
    const all = items();
    if (!all.length) return false;
    const at = all.indexOf(document.activeElement.closest("[data-item]"));
    const to = at < 0 ? (by > 0 ? 0 : all.length - 1) : Math.min(all.length - 1, Math.max(0, at + by));
    link(all[to]).focus({ preventScroll: true });
    all[to].scrollIntoView({ block: "nearest" });
    return true;
  }

  const inList = () => document.activeElement.closest("[data-item]") !== null;

  // Times -------------------------------------------------------------------------------------------------------------

  const clock = new Intl.DateTimeFormat([], { hour: "2-digit", minute: "2-digit", second: "2-digit" });
  const day = new Intl.DateTimeFormat([], { day: "numeric", month: "short" });
  const dayAndClock = new Intl.DateTimeFormat([], { day: "numeric", month: "short", hour: "2-digit", minute: "2-digit" });
  const minutes = new Intl.DateTimeFormat([], { hour: "2-digit", minute: "2-digit" });
  const years = new Intl.DateTimeFormat([], { day: "numeric", month: "short", year: "numeric" });
  const whole = new Intl.DateTimeFormat([], { dateStyle: "full", timeStyle: "long" });

  function told(at, style) {
    const now = new Date();
    if (style === "minutes") return minutes.format(at);
    if (style === "day") return day.format(at);
    if (style === "day minutes") return dayAndClock.format(at);
    if (at.toDateString() === now.toDateString()) return (style === "near" ? minutes : clock).format(at);
    return at.getFullYear() === now.getFullYear() ? dayAndClock.format(at) : years.format(at);
  }

  /** Show the times below a node in the reader's own time zone. */
  function times(root) {
    for (const each of root.querySelectorAll("time[datetime]:not([data-told])")) {
      const at = new Date(each.dateTime);
      if (Number.isNaN(at.getTime())) continue;
      each.textContent = told(at, each.dataset.style);
      each.title = whole.format(at);
      each.dataset.told = "";
    }
  }

  function lasting(seconds) {
    const [minutes, rest] = [Math.floor(seconds / 60), Math.floor(seconds % 60)];
    if (minutes < 1) return `${rest} s`;
    return minutes < 60 ? `${minutes} min ${rest} s` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
  }

  /** Show how long what is under way has taken so far. */
  function tick() {
    for (const each of document.querySelectorAll("[data-since]")) {
      each.textContent = lasting(Math.max(0, Date.now() / 1000 - Number(each.dataset.since)));
    }
  }

  // Being live --------------------------------------------------------------------------------------------------------

  /**
   * Call `heard` with the events of these kinds that have come, at most every `pause` milliseconds. The first is
   * "connected": what happened between the making of the page and then was not heard of. A page that is not looked at
   * listens to nothing, for browsers have few connections to give; when it is looked at again, that is a "reset".
   */
  function listen(path, kinds, heard, pause) {
    const sign = document.getElementById("live");
    let source = null;
    let timer = 0;
    let last = -Infinity;
    let waiting = [];
    let known = false;

    function show(on) {
      sign.hidden = false;
      sign.classList.toggle("on", on);
      const word = on ? "live" : "reconnecting";
      if (sign.textContent !== word) sign.textContent = word;
    }

    function tell() {
      timer = 0;
      last = performance.now();
      const events = waiting;
      waiting = [];
      heard(events);
    }

    function hear(event) {
      waiting.push(event);
      if (!timer) timer = setTimeout(tell, Math.max(0, last + pause - performance.now()));
    }

    function open() {
      if (source || document.hidden) return;
      source = new EventSource(base + path);
      source.onopen = () => {
        show(true);
        if (!known) hear(new Event("connected"));
        known = true;
      };
      source.onerror = () => {
        show(false);
        if (source.readyState === EventSource.CLOSED) {
          source = null;
          setTimeout(open, 3000);
        }
      };
      for (const kind of kinds) source.addEventListener(kind, hear);
    }

    function close() {
      if (source) source.close();
      source = null;
    }

    document.addEventListener("visibilitychange", () => {
      if (document.hidden) return close();
      if (!source) hear(new Event("reset"));
      open();
    });
    addEventListener("pagehide", close);
    addEventListener("pageshow", (event) => {
      if (event.persisted) hear(new Event("reset"));
      open();
    });
    open();
  }

  /** Ask for this very page again, only its rows, and put them in place of those shown. */
  async function refresh(rows) {
    let text;
    try {
      const response = await fetch(location.href, { headers: { Accept: "text/html", "X-Fragment": "rows" } });
      if (!response.ok) return;
      text = await response.text();
    } catch {
      return; // the next event asks again
    }
    const focused = rows.contains(document.activeElement) ? document.activeElement : null;
    const item = focused && focused.closest("[data-item]");
    const at = item ? items().indexOf(item) : -1;
    const place = item ? [...item.querySelectorAll("a, button")].indexOf(focused) : -1;
    rows.innerHTML = text;
    times(rows);
    origins(rows);
    tick();
    if (!document.querySelector(".filters") && items().length) location.reload(); // the first run ever
    if (!item) return;
    const again = items().find((each) => each.dataset.item === item.dataset.item) || items()[at] || items().at(-1);
    const target = again && ([...again.querySelectorAll("a, button")][place] || link(again));
    if (target) target.focus({ preventScroll: true });
  }

  function origins(root) {
    for (const each of root.querySelectorAll("[data-origin]")) each.textContent = location.origin;
  }

  // All pages ---------------------------------------------------------------------------------------------------------

  window.sidestream = Object.freeze({ base, keys: Object.freeze({ add, help }), times, listen, step, refresh });

  add("/", "Search", () => {
    const field = document.querySelector("input[type=search]");
    if (!field || field.offsetParent === null) return false;
    field.focus();
    field.select();
  });
  add("?", "Show these keys", help);
  add("g r", "Go to runs", () => location.assign(`${base}/`));
  add("g o", "Go to the overview", () => location.assign(`${base}/overview`));
  add("g d", "Go to deliveries", () => location.assign(`${base}/deliveries`));

  if (document.querySelector("[data-list]")) {
    add("j", "Next", () => step(1));
    add("ArrowDown", "Next", () => inList() && step(1));
    add("k", "Previous", () => step(-1));
    add("ArrowUp", "Previous", () => inList() && step(-1));
    add("Enter", "Open", () => false); // what has the focus is a link
    add("Escape", "Leave the list", () => inList() && document.activeElement.blur());
  }

  document.addEventListener("keydown", press);
  const opener = document.querySelector("button.keys");
  opener.hidden = false;
  opener.addEventListener("click", help);
  const switched = document.getElementById("keys-on");
  switched.checked = !off;
  switched.addEventListener("change", () => turn(switched.checked));
  times(document);
  origins(document);
  tick();
  setInterval(tick, 1000);

  const rows = document.querySelector("[data-live]");
  if (rows) {
    const kinds = ["began", "ended", "gone", "removed"];
    const query = new URLSearchParams({ kinds });
    const dataset = new URLSearchParams(location.search).get("dataset");
    if (dataset) query.set("dataset", dataset);
    listen(`/ui/api/events?${query}`, [...kinds, "reset"], () => refresh(rows), 1000);
  }
})();
