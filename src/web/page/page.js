"use strict";
// What containers call themselves goes into text nodes only, and so is never read as HTML.
const $ = (id) => document.getElementById(id);
const LABELS = [...document.querySelectorAll("#table th")].map((th) => th.textContent);
const EVERY = 1000, SLOWEST = 15000, PATIENCE = 10000;
let tag = null, state = null, clock = 0, wait = EVERY, timer = 0, seen = null;

function element(name, text, className) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  return made;
}

function set(node, text) { if (node.textContent !== text) node.textContent = text; }

// Times are the exporter's; the clock of whoever looks may be wrong.
const now = () => Date.now() + clock;

function ago(ms) {
  const s = Math.max(0, Math.round((now() - ms) / 1000));
  if (s < 60) return s + " s";
  if (s < 3600) return Math.floor(s / 60) + " min";
  if (s < 86400) return Math.floor(s / 3600) + " h " + Math.floor(s % 3600 / 60) + " min";
  return Math.floor(s / 86400) + " d " + Math.floor(s % 86400 / 3600) + " h";
}

function time(ms) {
  const made = element("time");
  if (ms > 0) {
    const at = new Date(ms);
    made.dateTime = at.toISOString();
    made.title = at.toLocaleString();
    made.dataset.ms = ms;
    made.textContent = ago(ms);
  }
  return made;
}

function tick() {
  for (const made of document.querySelectorAll("time[data-ms]")) set(made, ago(Number(made.dataset.ms)));
}

// By key: what stays is not made anew, so that focus, selection and scrolling stay too.
function keyed(parent, items, key, print, make) {
  const old = new Map([...parent.children].map((child) => [child.dataset.key, child]));
  let next = parent.firstElementChild;
  for (const item of items) {
    const id = String(key(item)), text = print(item);
    let node = old.get(id);
    old.delete(id);
    if (!node || node.dataset.print !== text) {
      const made = make(item);
      made.dataset.key = id;
      made.dataset.print = text;
      if (node) { if (node === next) next = made; node.replaceWith(made); }
      node = made;
    }
    if (node === next) next = node.nextElementSibling; else parent.insertBefore(node, next);
  }
  for (const node of old.values()) node.remove();
}

function row(c) {
  const made = element("tr", undefined, ["", "warn", "bad"][c.concern]);
  const name = element("td", c.name, "name");
  name.title = c.id;
  if (c.why) name.append(element("span", c.why, "why"));
  const since = element("td");
  since.append(time(c.since * 1000));
  const number = (value) => element("td", String(value), "n");
  made.append(name, element("td", c.status), element("td", c.health === "none" ? "–" : c.health), since,
    number(c.restarts), number(c.exit), element("td", c.oom ? "yes" : "no"), element("td", c.image, "image"));
  [...made.children].forEach((cell, i) => { cell.dataset.label = LABELS[i]; });
  return made;
}

function entry(e) {
  const made = element("li"), what = element("span");
  what.append(element("b", e.event), " " + (e.type === "container" ? "" : e.type + " ") + e.name);
  made.append(time(e.time), what);
  return made;
}

function part(r) {
  const made = element("li", undefined, "part " + (r.well === null ? "" : r.well ? "good" : "bad"));
  const said = element("small", r.detail);
  if (r.at) said.append(" ", time(r.at), " ago");
  made.append(element("b", r.well === null ? "– " : r.well ? "✓ " : "✗ "), r.name + ": " + r.says, said);
  return made;
}

function show() {
  const text = $("filter").value.trim().toLowerCase();
  const shown = state.containers.filter((c) => !text || (c.name + "\n" + c.image).toLowerCase().includes(text));
  keyed($("table").tBodies[0], shown, (c) => c.id, JSON.stringify, row);
  $("table").hidden = !shown.length;
  $("none").hidden = shown.length > 0;
  set($("none"), !state.known ? "Not known." : text ? "None of that name or image." : "There are no containers.");
  const left = state.total - state.containers.length;
  $("more").hidden = !left;
  set($("more"), "And " + left + " more, which need less attention.");
  keyed($("states"), Object.entries(state.states), (s) => s[0], String, ([name, count]) => {
    const made = element("li", name + " ");
    made.append(element("b", String(count)));
    return made;
  });
  keyed($("log"), state.events, (e) => e.seq, String, entry);
  $("quiet").hidden = state.events.length > 0;
  keyed($("readers"), state.parts, (r) => r.name, JSON.stringify, part);
  const verdict = $("verdict"), bad = state.concerns;
  set(verdict, !state.known ? "The engine is not followed" : !state.total ? "No containers" : !bad ? "All is well"
    : bad === 1 ? "1 container needs attention" : bad + " containers need attention");
  verdict.className = !state.known || bad ? "bad" : "good";
  document.title = verdict.textContent + " · " + location.host;
}

function complain(why) {
  $("trouble").hidden = !why;
  if (why) set($("trouble"), why + (seen ? " What is shown is from " + seen.toLocaleTimeString() + "." : ""));
}

async function look() {
  clearTimeout(timer);
  const giveUp = new AbortController(), patience = setTimeout(() => giveUp.abort(), PATIENCE);
  try {
    const answer = await fetch("-/page.json", {
      cache: "no-store", headers: tag ? { "If-None-Match": tag } : {}, signal: giveUp.signal,
    });
    if (answer.status === 200) {
      state = await answer.json();
      clock = state.now - Date.now();
      tag = answer.headers.get("ETag");
      show();
    } else if (answer.status !== 304) {
      throw new Error(String(answer.status));
    }
    seen = new Date();
    wait = EVERY;
    complain("");
  } catch (error) {
    wait = Math.min(wait * 2, SLOWEST);
    complain(error.message === "503" ? "Too many look at once; trying again." : "The exporter does not answer.");
  }
  clearTimeout(patience);
  tick();
  if (!document.hidden) timer = setTimeout(look, wait);
}

$("filter").addEventListener("input", () => { if (state) show(); });
// Nobody looks, nothing is asked.
document.addEventListener("visibilitychange", () => { if (document.hidden) clearTimeout(timer); else look(); });
look();
