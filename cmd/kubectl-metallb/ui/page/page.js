// The page: what the commands print, drawn. It asks again every few seconds while somebody sees it.

import { el, rows } from "/rows.js";

const $ = (id) => document.getElementById(id);
const every = 5000; // milliseconds, from the end of one refresh to the next
const some = 20; // rows that are a table; more are a list

// ask returns an answer, or throws what is wrong, in words.
async function ask(path, options = {}) {
  let response;
  try {
    response = await fetch(path, options);
  } catch {
    throw new Error("kubectl metallb ui does not answer: was it ended?");
  }
  const text = await response.text();
  let answer;
  try {
    answer = JSON.parse(text);
  } catch {
    throw new Error(text.trim() || `it answers ${response.status}`);
  }
  if (!response.ok) throw new Error(answer.error);
  return answer;
}

// waiting shows that something goes on, as soon as it takes longer than a moment, and how long the same took the last time.
let under = 0;
const took = new Map();
async function waiting(what, work) {
  const began = performance.now(), box = $("progress"), last = took.get(what) || 0;
  under++;
  const tick = () => {
    const seconds = (performance.now() - began) / 1000;
    if (seconds < 0.5) return;
    box.hidden = false;
    const bar = box.querySelector("progress");
    if (last > 1) {
      bar.max = last;
      bar.value = Math.min(seconds, last);
    } else {
      bar.removeAttribute("value"); // nobody knows how long it will take
    }
    box.querySelector("span").textContent = `${what}: ${seconds.toFixed(0)} s${last > 1 ? `; the last time it took ${last.toFixed(0)} s` : ""}`;
  };
  const timer = setInterval(tick, 250);
  try {
    return await work();
  } finally {
    clearInterval(timer);
    took.set(what, (performance.now() - began) / 1000);
    if (--under === 0) box.hidden = true;
  }
}

// copying shows a command with the button that copies it.
function copying(command) {
  if (!command) return "";
  const code = el("code", {}, command);
  const button = el("button", {
    type: "button",
    onclick: async () => {
      try {
        await navigator.clipboard.writeText(command);
        button.textContent = "Copied";
      } catch {
        getSelection().selectAllChildren(code);
        button.textContent = "Selected: copy it";
      }
      setTimeout(() => { button.textContent = "Copy"; }, 2000);
    },
  }, "Copy");
  return el("div", { class: "command" }, button, code);
}

function table(head, body) {
  return el("div", { class: "wide" }, el("table", {},
    el("thead", {}, el("tr", {}, head.map((text) => el("th", { scope: "col" }, text)))),
    el("tbody", {}, body.map((cells) => el("tr", {}, cells.map((cell, i) => el("td", { class: i === cells.length - 1 ? "why" : "" }, cell)))))));
}

// few is a table of the rows if there are few, and else a list.
function few(label, head, body, open) {
  if (body.length <= some && !open) return table(head, body);
  return el("div", {}, el("p", { class: "quiet" }, `${label}: ${body.length} (${head.join(" · ")})`), rows(label, body.map((cells) => cells.join(" · ")), open));
}

function state(kind) {
  const [sign, colour] = { ok: ["✓", "good"], broken: ["✗", "bad"], remark: ["!", "mark"] }[kind] || ["?", ""];
  return el("span", { class: `state ${colour}` }, `${sign} ${kind}`);
}

function unread(answer) {
  const all = (answer.unread || []).map((u) => (u.node ? `the speaker on node ${u.node} does not answer: ${u.why}` : `cannot ${u.verb} ${u.kind} ${u.namespace ? `in namespace ${u.namespace}` : "in the whole cluster"}: ${u.why}`));
  return all.length > 0 ? [...all, "What could not be read may change the answer."] : [];
}

function list(texts) {
  return el("ul", {}, texts.map((text) => el("li", {}, text)));
}

function strip(id, title, texts) {
  const changed = JSON.stringify([title, texts]);
  const box = $(id);
  if (box.dataset.shown === changed) return; // so that it is not read out again
  box.dataset.shown = changed;
  box.hidden = texts.length === 0;
  box.replaceChildren(el("strong", {}, title), list(texts));
}

function ago(since, now) {
  const seconds = Math.max(0, Math.floor((Date.parse(now) - Date.parse(since)) / 1000));
  const days = Math.floor(seconds / 86400), hours = Math.floor(seconds / 3600) % 24, minutes = Math.floor(seconds / 60) % 60;
  if (days > 0) return `${days}d ${hours}h`;
  if (hours > 0) return `${hours}h ${minutes}m`;
  return minutes > 0 ? `${minutes}m` : `${seconds}s`;
}

// show opens the dialog; Escape closes it, and the focus returns to where it was.
function show(title, ...body) {
  $("h-dialog").textContent = title;
  $("body").replaceChildren(...body.filter(Boolean));
  if (!$("dialog").open) $("dialog").showModal();
  ($("body").querySelector("[tabindex='0'], button") || $("close")).focus();
}

// draw replaces what is in a box, if it would be something else, and leaves the focus where it is.
function draw(id, data, make) {
  const box = $(id), changed = JSON.stringify(data);
  if (box.dataset.shown === changed) return;
  box.dataset.shown = changed;
  const key = box.contains(document.activeElement) ? document.activeElement.dataset.key : undefined;
  box.replaceChildren(...[make()].flat().filter(Boolean));
  if (key) [...box.querySelectorAll("[data-key]")].find((e) => e.dataset.key === key)?.focus();
}

function drawStatus({ answer, command, taken, remarks = [] }) {
  const c = answer.config;
  $("force").textContent = (c.hash ? `Configuration ${c.hash} in force${c.admittedAt ? ` since ${c.admittedAt}` : ""}` : "No configuration in force") +
    `; your text is ${c.state}; leader: ${answer.leader || "nobody"}; ${answer.services} Services`;
  $("read").textContent = `read at ${new Date(taken).toLocaleTimeString()}`;
  const refused = c.state === "refused" && c.refused;
  strip("refused", refused ? `Your text ${c.refused.hash} is refused, and the one in force stays:` : "", refused ? c.refused.problems : []);
  strip("trouble", "What is shown may be wrong:", [...remarks, ...unread(answer)]);
  draw("problems", [answer.problems, answer.unannounced, command], () => [
    answer.problems.length === 0 ? el("p", {}, "No problems are known.")
      : answer.problems.map((p) => el("div", {}, el("div", {}, el("span", { class: "state bad" }, "✗"), " ", p.text), el("div", { class: "quiet" }, "try ", el("code", {}, p.next)))),
    answer.unannounced.length === 0 ? "" : few("Addresses that no node announces", ["Service", "address", "why"], answer.unannounced.map((u) => [u.service, u.address, u.why]), (i) => search(answer.unannounced[i].service)),
    copying(command),
  ].flat());
  draw("pools", answer.pools, () => answer.pools.map((pool) => poolBar(pool)));
  draw("waiting", answer.waiting, () => answer.waiting.length === 0 ? []
    : [el("h3", {}, "Services that wait"), few("Waiting", ["Service", "keeps", "why"], answer.waiting.map((w) => [w.service, (w.addresses || []).join(", ") || "-", w.why]), (i) => search(answer.waiting[i].service))]);
}

const prefixes = (n) => (n === 1 ? "1 prefix" : `${n} prefixes`);
const number = (n) => (n < 1e6 ? String(n) : n.toPrecision(4));

function poolBar(pool) {
  const bars = (pool.usage || []).map((u) => {
    const part = u.size > 0 ? Math.min(1, u.used / u.size) : 0;
    const fill = el("span", { class: u.free === 0 ? "full" : "" });
    fill.style.width = `${Math.max(part * 100, u.used > 0 ? 1 : 0)}%`;
    return [`${u.family}: ${u.used} of ${number(u.size)} used, ${u.free === 0 ? "✗ none free" : `${number(u.free)} free`}`, el("span", { class: "bar" }, fill)];
  });
  return el("button", { type: "button", class: "pool", "data-key": pool.name, onclick: () => openPool(pool.name) },
    el("strong", {}, pool.name), ` ${pool.autoAssign ? "" : "(by request only) "}${pool.ranges.slice(0, 3).join(", ")}${pool.ranges.length > 3 ? ` and ${pool.ranges.length - 3} more` : ""}`, el("br"), bars.flat());
}

async function openPool(name) {
  show(`Pool ${name}`, el("p", {}, "Reading"));
  try {
    const { answer, command } = await waiting("Reading the pool", () => ask(`/api/pool.json?name=${encodeURIComponent(name)}`));
    const holders = answer.pools[0].holders || [];
    show(`Pool ${name}`, el("p", {}, answer.pools[0].ranges.join(", ")),
      holders.length === 0 ? el("p", {}, "Nobody holds an address.")
        : few("Holders", ["address", "Service"], holders.map((h) => [h.address, h.service]), (i) => { $("dialog").close(); search(holders[i].service); }),
      copying(command));
  } catch (error) {
    show(`Pool ${name}`, el("p", { class: "bad" }, error.message));
  }
}

// cell is a session in a few signs: its colour says nothing that its sign does not.
function cell(s, taken) {
  if (s.problem) return ["✗", "bad", s.sent ? s.sent.state : "cannot be"];
  if (s.sent) return ["✓", "good", `${s.sent.since ? ago(s.sent.since, taken) : "up"} · ${s.sent.prefixes}`];
  return ["○", "", `${s.prefixes} intended`];
}

function drawGrid(status, { answer, command, taken }) {
  const marks = new Map(status.answer.nodes.map((n) => [n.node, n]));
  const routers = [], at = new Map();
  for (const s of answer.sessions) {
    if (!routers.includes(s.peer)) routers.push(s.peer);
    at.set(JSON.stringify([s.node, s.peer]), s);
  }
  const names = [...new Set([...marks.keys(), ...answer.sessions.map((s) => s.node)])];
  // Uptime changes with every read: it is part of what is drawn.
  const drawn = names.map((node) => routers.map((peer) => {
    const s = at.get(JSON.stringify([node, peer]));
    return s ? cell(s, taken) : null;
  }));
  draw("grid", [names, routers, drawn, [...marks.values()], command], () => [
    names.length === 0 ? el("p", {}, "No Nodes are known.") : el("table", {},
      el("thead", {}, el("tr", {}, el("th", { scope: "col" }, "Node"), routers.map((peer) => el("th", { scope: "col" }, peer)))),
      el("tbody", {}, names.map((node, i) => el("tr", {},
        el("th", { scope: "row" }, node, mark(marks.get(node))),
        routers.map((peer, j) => {
          if (!drawn[i][j]) return el("td", {}, el("span", { "aria-label": "no session is intended" }, "–"));
          const [sign, colour, text] = drawn[i][j];
          return el("td", {}, el("button", {
            type: "button", class: `cell ${colour}`, "data-key": `${node} ${peer}`,
            onclick: () => openCell(at.get(JSON.stringify([node, peer])), marks.get(node), command),
          }, `${sign} ${text}`));
        }))))),
    copying(command),
  ]);
}

function mark(n) {
  if (!n) return "";
  const all = [];
  if (n.unfit) all.push(el("span", { class: "state bad", title: n.unfit }, "! unfit"));
  if (n.drained) all.push(el("span", { class: "state mark", title: n.drained }, "▽ drained"));
  if (n.speaker !== "running") all.push(el("span", { class: "state bad" }, `✗ speaker ${n.speaker}`));
  return all.flatMap((e) => [" ", e]);
}

function openCell(s, n, command) {
  const body = [["intended", `${s.peer} (${s.address}), AS ${s.asn}, our AS ${s.myASN}; ${prefixes(s.prefixes)}`]];
  if (s.problem) body.push([el("span", { class: "state bad" }, "✗ problem"), s.problem]);
  if (s.sent) {
    body.push(["sent", `${s.sent.state}${s.sent.since ? ` since ${s.sent.since}` : ""}; ${prefixes(s.sent.prefixes)}; attempts: ${s.sent.attempts}`]);
    if (s.sent.reason) body.push(["last reason", s.sent.reason]);
  } else {
    body.push(["sent", "nobody knows: the speaker was not asked, or did not answer"]);
  }
  if (n?.drained) body.push([el("span", { class: "state mark" }, "▽ drained"), n.drained]);
  if (n?.unfit) body.push([el("span", { class: "state bad" }, "! unfit"), n.unfit]);
  show(`${s.node} and ${s.peer}`, table(["what", "text"], body), copying(command));
}

let searching = 0;

async function search(text) {
  $("q").value = text;
  const mine = ++searching, box = $("why");
  box.replaceChildren(el("p", { class: "quiet" }, "Reading"));
  let shown;
  try {
    shown = drawWhy(text, await waiting("Following the chain", () => ask(`/api/why.json?q=${encodeURIComponent(text)}`)));
  } catch (error) {
    shown = [el("p", { class: "bad" }, error.message)];
  }
  if (mine !== searching) return; // somebody has asked for something else meanwhile
  box.replaceChildren(...shown.filter(Boolean));
  if (document.activeElement === document.body) box.focus(); // it was in a list that is gone
}

function drawWhy(text, { answer: why, command, found = [] }) {
  if (!why) return [few(`Services for ${text}`, ["choose one"], found.map((name) => [name]), (i) => search(found[i]))];
  const links = [...why.links.map((l) => ["-", "-", l])];
  const ends = [];
  for (const a of why.addresses || []) {
    links.push([a.address, "-", a.pool]);
    for (const n of a.nodes || []) {
      const broken = n.links.find((l) => l.state === "broken"), sent = n.links[n.links.length - 1];
      const by = (broken || sent).told;
      const notes = n.links.filter((l) => l.state === "remark").map((l) => l.text);
      const [sign, colour] = n.announces ? ["✓", "good"] : ["✗", "bad"];
      ends.push([a.address, n.node, el("span", { class: `state ${colour}` }, `${sign} ${n.announces ? "" : "not "}${(n.announces ? sent.told : by) ? "sent" : "intended"}`),
        n.announces ? [sent.told ? sent.text : n.links[0].text, ...notes].join("; ") : n.reason || broken?.text || "-",
        el("button", { type: "button", onclick: () => show(`${why.service} on ${n.node}`, table(["link", "state", "why"], n.links.map((l) => [l.name, state(l.state), l.text]))) }, "Links")]);
    }
  }
  return [
    el("p", {}, el("strong", {}, why.service), " ", el("span", { class: `state ${why.announced ? "good" : "bad"}` }, `${why.announced ? "✓" : "✗"} ${why.source}: ${why.announced ? "announced" : "not announced"}`), why.reason ? ` ${why.reason}` : ""),
    unread(why).length > 0 ? list(unread(why)) : "",
    table(["Address", "Node", "Link", "State", "Why"], links.map(([address, node, l]) => [address, node, l.name, state(l.state), l.text])),
    ends.length > 0 ? table(["Address", "Node", "Announced", "Why", ""], ends) : "",
    copying(command),
  ];
}

function drawPlan({ answer: plan, command }) {
  const part = (title, head, body) => (body.length === 0 ? [] : [el("h3", {}, title), few(title, head, body)]);
  const changes = plan.services.length + plan.sessions.length + plan.prefixes.length;
  const by = (n, what) => (n ? [`${what} by ${n === 1 ? "1 node" : `${n} nodes`}`] : []);
  return [
    el("p", {}, el("span", { class: `state ${plan.admitted ? "good" : "bad"}` }, plan.admitted ? "✓ would be admitted" : "✗ would be refused"), ` (intended): the text ${plan.hash}`),
    plan.reasons.length > 0 ? list(plan.reasons) : "",
    plan.warnings.length > 0 ? list(plan.warnings.map((text) => `warning: ${text}`)) : "",
    unread(plan).length > 0 ? list(unread(plan)) : "",
    plan.confirm ? el("p", {}, "To do it all the same, annotate the ConfigMap with ", el("code", {}, plan.confirm), "; then:") : "",
    changes === 0 && plan.admitted ? el("p", {}, "Nothing changes for Services, sessions and routes.") : "",
    ...part("Services", ["Service", "intended", "from", "to", "why"], plan.services.map((c) => [c.service, c.what, c.from.join(", ") || "-", c.to.join(", ") || "-", c.why || "-"])),
    ...part("Sessions", ["node", "peer", "intended", "why"], plan.sessions.map((c) => [c.node, c.peer, c.what, c.why || "-"])),
    ...part("Prefixes", ["prefix", "intended"], plan.prefixes.map((c) => [c.prefix, [...by(c.announced, "announced"), ...by(c.changed, "changed"), ...by(c.withdrawn, "withdrawn")].join(", ")])),
    copying(command),
  ];
}

$("search").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = $("q").value.trim();
  if (text) search(text);
});
$("q").addEventListener("keydown", (event) => {
  if (event.key !== "Escape") return;
  searching++;
  $("q").value = "";
  $("why").replaceChildren();
});
$("plan").addEventListener("submit", async (event) => {
  event.preventDefault();
  const box = $("verdict"), button = event.target.querySelector("button");
  button.disabled = true;
  box.replaceChildren(el("p", { class: "quiet" }, "Computing"));
  try {
    const answer = await waiting("Computing the plan", () => ask("/api/plan.json", { method: "POST", headers: { "Content-Type": "application/yaml" }, body: $("text").value }));
    box.replaceChildren(...drawPlan(answer).filter(Boolean));
  } catch (error) {
    box.replaceChildren(el("p", { class: "bad" }, error.message));
  } finally {
    button.disabled = false;
  }
});
$("close").addEventListener("click", () => $("dialog").close());

let timer, refreshing = false;

async function refresh() {
  clearTimeout(timer);
  if (refreshing || document.visibilityState !== "visible") return;
  refreshing = true;
  try {
    const [status, nodes] = await waiting("Reading the cluster", () => Promise.all([ask("/api/status.json"), ask("/api/nodes.json")]));
    drawStatus(status);
    drawGrid(status, nodes);
  } catch (error) {
    strip("trouble", "What is shown is old:", [error.message]);
  } finally {
    refreshing = false;
    timer = setTimeout(refresh, every);
  }
}

$("refresh").addEventListener("click", refresh);
document.addEventListener("visibilitychange", refresh);
refresh();
