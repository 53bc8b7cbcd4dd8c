// A run's page and a turn's: live turns, keys, copying. Everything can be read without it.
"use strict";

(() => {
  const { base, keys, times, listen } = window.sidestream;
  const run = document.querySelector("[data-run]");
  const name = encodeURIComponent(run.dataset.run);

  // Copying -----------------------------------------------------------------------------------------------------------

  for (const button of document.querySelectorAll("[data-copy]")) {
    if (!navigator.clipboard) continue; // only where the page came over https, or from this machine
    button.hidden = false;
    button.addEventListener("click", async () => {
      const pre = button.parentElement.querySelector("pre");
      try {
        await navigator.clipboard.writeText(pre.textContent);
        button.textContent = "Copied";
      } catch {
        button.textContent = "Not allowed";
      }
      setTimeout(() => { button.textContent = "Copy"; }, 2000);
    });
  }

  // Menus close when one looks elsewhere ------------------------------------------------------------------------------

  const menus = document.querySelectorAll(".menu");
  document.addEventListener("click", (event) => {
    for (const menu of menus) if (!menu.contains(event.target)) menu.open = false;
  });

  // A turn's own page -------------------------------------------------------------------------------------------------

  function follow(selector) {
    const link = document.querySelector(selector);
    if (!link) return false;
    location.assign(link.href);
    return true;
  }

  if ("turnPage" in run.dataset) {
    keys.add("j", "Next turn", () => follow("[data-next]"));
    keys.add("k", "Previous turn", () => follow("[data-previous]"));
    keys.add("u", "Back to the run", () => follow("[data-up]"));
    keys.add("Escape", "Back to the run", () => follow("[data-up]"));
    return;
  }

  // Where a link leads to ---------------------------------------------------------------------------------------------

  const list = document.getElementById("turns");
  const turns = () => [...list.querySelectorAll(".turn")];
  const wanted = decodeURIComponent(location.hash).match(/^#t-(.+)$/);
  const asked = new URLSearchParams(location.search).get("turn");
  if (wanted && asked !== wanted[1] && !document.getElementById(`t-${wanted[1]}`)) {
    location.replace(`${base}/runs/${name}?turn=${encodeURIComponent(wanted[1])}${location.hash}`);
    return;
  }

  // Keys --------------------------------------------------------------------------------------------------------------

  function current() {
    const focused = document.activeElement.closest(".turn");
    if (focused) return focused;
    return turns().find((turn) => turn.getBoundingClientRect().bottom > 60) || null;
  }

  function step(by) {
    const all = turns();
    if (!all.length) return false;
    const at = document.activeElement.closest(".turn");
    const from = at ? all.indexOf(at) + by : all.indexOf(current()) + (by > 0 ? 0 : -1);
    const to = all[Math.min(all.length - 1, Math.max(0, from))];
    to.focus({ preventScroll: true });
    to.scrollIntoView({ block: "start" });
    return true;
  }

  /** Fold everything if anything is open, else unfold it. */
  function fold() {
    const all = [...list.querySelectorAll("details.fold")];
    const open = all.some((each) => each.open);
    const at = current();
    const top = at && at.getBoundingClientRect().top;
    for (const each of all) each.open = !open;
    if (at) scrollBy(0, at.getBoundingClientRect().top - top);
    folder.textContent = open ? "Unfold all" : "Fold all";
  }

  const folder = document.querySelector("[data-fold]");
  folder.hidden = false;
  folder.addEventListener("click", fold);

  keys.add("j", "Next turn", () => step(1));
  keys.add("k", "Previous turn", () => step(-1));
  keys.add("Enter", "Open the turn's page", (event) => {
    const turn = event.target.closest(".turn");
    if (!turn || event.target !== turn) return false;
    location.assign(turn.querySelector("a.title").href);
    return true;
  });
  keys.add("o", "Fold or unfold everything", fold);
  keys.add("u", "Back to the list", () => location.assign(`${base}/`));
  keys.add("Escape", "Back to the list", () => {
    const open = [...menus].find((menu) => menu.open);
    if (open) open.open = false;
    else location.assign(`${base}/`);
  });

  // Being live --------------------------------------------------------------------------------------------------------

  async function ask(path) {
    try {
      const response = await fetch(`${base}${path}`, { headers: { Accept: "text/html" } });
      if (!response.ok) return null;
      return new DOMParser().parseFromString(await response.text(), "text/html");
    } catch {
      return null; // the next event asks again
    }
  }

  /** What is the same in both stays as it is, with what was opened or selected in it. */
  function put(old, fresh) {
    const before = [...old.children];
    const after = [...fresh.children];
    const plain = (node) => node.outerHTML.replace(/ open=""| data-told=""/g, "").replace(/<time.*?<\/time>/g, "");
    for (const attribute of ["class", "data-state", "data-number"]) {
      old.setAttribute(attribute, fresh.getAttribute(attribute));
    }
    after.forEach((node, place) => {
      if (!before[place]) old.append(node);
      else if (plain(before[place]) !== plain(node)) {
        const opened = [...before[place].querySelectorAll("details")].map((each) => each.open);
        if (before[place].matches("details") && before[place].open) node.open = true;
        if (opened.length) [...node.querySelectorAll("details")].forEach((each, nth) => {
          if (nth < opened.length) each.open = opened[nth];
        });
        before[place].replaceWith(node);
      }
    });
    before.slice(after.length).forEach((node) => node.remove());
  }

  const atEnd = () => innerHeight + scrollY >= document.documentElement.scrollHeight - 80;

  /** Show these turns anew; with `before`, the one before each too, in which results may be shown now. */
  async function show(exchange, before) {
    take(await ask(`/runs/${name}/turns/${encodeURIComponent(exchange)}/fragment${before ? "?before" : ""}`));
  }

  /** Put the turns of a page, or of a part of one, where they belong. */
  function take(page) {
    if (!page) return;
    const following = atEnd();
    for (const fresh of page.querySelectorAll(".turn")) {
      const old = document.getElementById(fresh.id);
      const node = document.adoptNode(fresh);
      if (old) put(old, node);
      else if ("liveRun" in run.dataset && Number(node.dataset.number) > lowest()) {
        const empty = list.querySelector(".empty");
        if (empty) empty.remove();
        const behind = turns().find((turn) => Number(turn.dataset.number) > Number(node.dataset.number));
        list.insertBefore(node, behind || null);
      }
    }
    times(list);
    if (following) scrollTo({ top: document.documentElement.scrollHeight });
  }

  function lowest() {
    const first = turns()[0];
    return first ? Number(first.dataset.number) : 0;
  }

  async function refreshHead() {
    const page = await ask(`/runs/${name}/header`);
    const fresh = page && page.getElementById("run-head");
    const old = document.getElementById("run-head");
    if (!fresh) return;
    const opened = [...old.querySelectorAll("details")].map((each) => each.open);
    const node = document.adoptNode(fresh);
    [...node.querySelectorAll("details")].forEach((each, nth) => {
      if (nth < opened.length) each.open = opened[nth];
    });
    const above = old.getBoundingClientRect().bottom < 0;
    const height = old.offsetHeight;
    old.replaceWith(node);
    if (above) scrollBy(0, node.offsetHeight - height);
    times(node);
  }

  const HEAD_PAUSE = 1000; // milliseconds
  let headTimer = 0;

  function headSoon() {
    if (!headTimer) headTimer = setTimeout(() => { headTimer = 0; refreshHead(); }, HEAD_PAUSE);
  }

  let busy = false;
  const waiting = new Map(); // exchange → whether the turn before is wanted too

  async function work() {
    if (busy) return;
    busy = true;
    while (waiting.size) {
      const [exchange, before] = waiting.entries().next().value;
      waiting.delete(exchange);
      await show(exchange, before);
    }
    busy = false;
  }

  function exchangeOf(data) {
    return data.id || (data.turn && data.turn.id) || null;
  }

  function heard(events) {
    for (const event of events) {
      if (event.type === "reset") {
        ask(`/runs/${name}${location.search}`).then(take);
        headSoon();
        continue;
      }
      let data;
      try {
        data = JSON.parse(event.data);
      } catch {
        continue;
      }
      if (event.type === "removed") {
        if (data.run === run.dataset.run) location.assign(`${base}/`);
        continue;
      }
      if (event.type === "gone") {
        const turn = document.getElementById(`t-${data.id}`);
        if (turn && turn.dataset.state === "running") turn.remove();
        waiting.delete(data.id);
        continue;
      }
      const exchange = exchangeOf(data);
      if (!exchange) continue;
      if (event.type === "ended" && data.turn.run !== run.dataset.run) {
        const turn = document.getElementById(`t-${exchange}`); // it seemed to go on with this run, but does not
        if (turn && turn.dataset.state === "running") turn.remove();
        waiting.delete(exchange);
        continue;
      }
      waiting.set(exchange, waiting.get(exchange) || event.type !== "progress");
      if (event.type === "ended") headSoon();
    }
    work();
  }

  listen(`/ui/api/events?run=${name}`, ["began", "progress", "ended", "gone", "removed", "reset"], heard, 250);
})();
