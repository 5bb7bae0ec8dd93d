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
    type: "button", "data-key": command,
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

function table(head, body, kind = "") {
  return el("div", { class: `wide ${kind}` }, el("table", { role: "table" },
    el("thead", {}, el("tr", { role: "row" }, head.map((text) => el("th", { scope: "col", role: "columnheader" }, text)))),
    el("tbody", {}, body.map((cells) => el("tr", { role: "row" }, cells.map((cell, i) => el("td", { role: "cell", class: i === cells.length - 1 ? "why" : cell.dataset?.sign ? "sign" : "" }, cell)))))));
}

// few is a table of the rows if there are few, and else a list.
function few(label, head, body, open) {
  if (body.length > some) return rows(label, head, body, open);
  const opens = (cell, i) => el("button", { type: "button", class: "link", "data-key": `${label} ${cell}`, onclick: () => open(i) }, cell);
  return table(head, open ? body.map(([first, ...rest], i) => [opens(first, i), ...rest]) : body);
}

// signs say what colours say.
const signs = { ok: ["✓", "good"], broken: ["✗", "bad"], remark: ["!", "mark"], unknown: ["?", ""] };

function pill(colour, text) {
  return el("span", { class: `state ${colour}` }, text);
}

// state is a link as a sign, which says in words what it is.
function state(link) {
  const [sign, colour] = signs[link.state] || signs.unknown;
  return el("span", { class: `state ${colour}`, "data-sign": "yes", role: "img", "aria-label": `${link.name}: ${link.state}`, title: `${link.name}: ${link.text}` }, sign);
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
  $("body").replaceChildren(...body.flat().filter(Boolean));
  if (!$("dialog").open) $("dialog").showModal();
  ($("body").querySelector("[tabindex='0'], button") || $("close")).focus();
}

// draw replaces what is in a box, if it would be something else, and leaves the focus and what was scrolled where they are.
function draw(id, data, make) {
  const box = $(id), changed = JSON.stringify(data);
  if (box.dataset.shown === changed) return;
  box.dataset.shown = changed;
  const scrolled = () => [...box.querySelectorAll(".wide, .list")];
  const key = box.contains(document.activeElement) ? document.activeElement.dataset.key : undefined, at = scrolled().map((e) => [e.scrollLeft, e.scrollTop]);
  box.replaceChildren(...[make()].flat().filter(Boolean));
  scrolled().forEach((e, i) => at[i] && e.scrollTo(...at[i]));
  if (key) [...box.querySelectorAll("[data-key]")].find((e) => e.dataset.key === key)?.focus({ preventScroll: true });
}

// figure is one number of the page's first line; a click leads to where it is from.
function figure(key, number, what, colour, to) {
  const sign = { good: "✓", bad: "✗", mark: "!", unsure: "?" }[colour] || "";
  return el("button", { type: "button", class: `figure ${colour}`, "data-key": key, onclick: () => $(to).focus() }, el("strong", {}, `${sign} ${number}`.trim()), el("span", {}, what));
}

// fine is what is good if all that matters could be read, and else nobody knows.
const fine = ({ answer, remarks = [] }) => ((answer.unread || []).length + remarks.length > 0 ? "unsure" : "good");

function drawFigures(answer, nodes) {
  const { answer: status } = answer, { answer: { sessions } } = nodes;
  const good = fine(answer), heard = fine(nodes);
  const unfit = status.nodes.filter((n) => n.unfit || silent.includes(n.speaker)).length, drained = status.nodes.filter((n) => n.drained).length;
  const up = sessions.filter((s) => s.sent && !s.problem).length, down = sessions.filter((s) => s.problem).length;
  const told = sessions.some((s) => s.sent);
  const without = status.waiting.filter((w) => !w.addresses?.length).length;
  const one = (n, singular, plural) => (n === 1 ? singular : plural);
  const bad = (n) => (n > 0 ? "bad" : good);
  const data = [
    ["problems", status.problems.length, one(status.problems.length, "problem", "problems"), bad(status.problems.length), "h-problems"],
    ["nodes", `${status.nodes.length - unfit} of ${status.nodes.length}`, `nodes can announce${drained ? `, ${drained} drained` : ""}`, unfit ? "bad" : drained ? "mark" : good, "h-grid"],
    ["sessions", told ? `${up} of ${sessions.length}` : sessions.length, told ? "sessions up" : `${one(sessions.length, "session", "sessions")} intended`, down ? "bad" : told ? heard : "", "h-grid"],
    ["services", status.services, one(status.services, "Service", "Services"), "", "q"],
    ["waiting", without, one(without, "waits for an address", "wait for an address"), bad(without), "waiting"],
    ["unannounced", status.unannounced.length, one(status.unannounced.length, "address unannounced", "addresses unannounced"), bad(status.unannounced.length), "h-problems"],
  ];
  draw("figures", data, () => data.map((all) => figure(...all)));
}

function drawStatus({ answer, command, taken, cluster, remarks = [] }) {
  const c = answer.config, good = fine({ answer, remarks }), lacks = (kind) => (answer.unread || []).some((u) => u.kind === kind);
  $("where").textContent = cluster || "";
  document.title = cluster ? `${cluster} · kubectl metallb` : "kubectl metallb";
  $("force").replaceChildren(...[
    c.hash ? pill("good", "✓ in force") : lacks("configmaps") ? pill("", "? configuration not read") : pill("bad", "✗ no configuration in force"), c.hash ? el("code", {}, c.hash) : "",
    c.admittedAt ? el("span", { class: "quiet", title: c.admittedAt }, `for ${ago(c.admittedAt, taken)}`) : "",
    ["in force", "unknown"].includes(c.state) ? "" : pill(c.state === "refused" ? "bad" : "mark", `${c.state === "refused" ? "✗" : "!"} your text is ${c.state}`),
    answer.leader ? el("span", { class: "quiet", title: answer.leader }, `leader ${answer.leader.replace(/_[0-9a-f-]{36}$/, "")}`) : lacks("leases") ? "" : pill("bad", "✗ nobody leads"),
  ].filter(Boolean));
  $("read").textContent = `read at ${new Date(taken).toLocaleTimeString()}`;
  const refused = c.state === "refused" && c.refused;
  strip("refused", refused ? `Your text ${c.refused.hash} is refused, and the one in force stays:` : "", refused ? c.refused.problems : []);
  strip("trouble", "What is shown may be wrong:", [...remarks, ...unread(answer)]);
  draw("problems", [answer.problems, answer.unannounced, command, good], () => [
    answer.problems.length === 0 ? el("p", { class: `calm ${good}` }, good === "good" ? "✓ No problems are known." : "? No problems are known, and not all could be read.")
      : el("ul", { class: "issues" }, answer.problems.map((p, i) => el("li", {}, pill("bad", "✗"), el("div", {}, p.text, next(p.next, i))))),
    answer.unannounced.length <= answer.problems.filter((p) => p.text.startsWith("no node announces ")).length ? "" : [el("h3", {}, `Addresses that no node announces: ${answer.unannounced.length}`), few("Addresses that no node announces", ["Service", "address", "why"], answer.unannounced.map((u) => [u.service, u.address, u.why]), (i) => search(answer.unannounced[i].service))],
    copying(command),
  ].flat());
  draw("pools", answer.pools, () => answer.pools.length === 0 ? [el("p", { class: "quiet" }, "No pool is in force.")] : answer.pools.map(poolBar));
  draw("waiting", answer.waiting, () => answer.waiting.length === 0 ? []
    : [el("h3", {}, `Services that wait: ${answer.waiting.length}`), few("Services that wait", ["Service", "keeps", "why"], answer.waiting.map((w) => [w.service, (w.addresses || []).join(", ") || "-", w.why]), (i) => search(answer.waiting[i].service))]);
}

// next is the command that tells more of a problem: here, if that can be seen here.
function next(command, i) {
  const why = command.match(/^kubectl metallb why (\S+)$/);
  if (!why) return el("div", { class: "quiet" }, "try ", el("code", {}, command));
  return el("div", {}, el("button", { type: "button", class: "link mono", "data-key": `${i} ${command}`, onclick: () => search(why[1]) }, `why ${why[1]}`));
}

const prefixes = (n) => (n === 1 ? "1 prefix" : `${n} prefixes`);

// number writes what nobody counts as a power of two, which sizes of pools often are.
function number(n) {
  if (n < 1e6) return String(n);
  const bits = Math.log2(n);
  return Number.isInteger(bits) ? `2^${bits}` : n.toPrecision(3);
}

function poolBar(pool) {
  const bars = (pool.usage || []).flatMap((u) => {
    const part = u.size > 0 ? Math.min(1, u.used / u.size) : 0;
    const colour = u.free === 0 ? "bad" : part >= 0.8 ? "mark" : "";
    const fill = el("span", { class: `${colour} ${u.used > 0 ? "some" : ""}` });
    fill.style.width = `${part * 100}%`;
    const free = u.free === 0 ? pill("bad", "✗ none free") : colour ? pill("mark", `! ${number(u.free)} free`) : u.size < 1e6 ? `${number(u.free)} free` : "";
    return [el("span", { class: "line" }, el("span", {}, `${u.family}: ${u.used} of ${number(u.size)} used`), el("span", {}, free)), el("span", { class: "bar2" }, fill)];
  });
  return el("button", { type: "button", class: "pool", "data-key": pool.name, onclick: () => openPool(pool.name) },
    el("span", { class: "line" }, el("strong", {}, pool.name), pool.autoAssign ? "" : el("span", { class: "quiet" }, "by request only"),
      el("span", { class: "mono quiet" }, `${pool.ranges.slice(0, 3).join(", ")}${pool.ranges.length > 3 ? ` and ${pool.ranges.length - 3} more` : ""}`)), bars);
}

async function openPool(name) {
  show(`Pool ${name}`, el("p", {}, "Reading"));
  try {
    const { answer, command } = await waiting("Reading the pool", () => ask(`/api/pool.json?name=${encodeURIComponent(name)}`));
    const holders = answer.pools[0].holders || [];
    show(`Pool ${name}`, el("p", { class: "mono quiet" }, answer.pools[0].ranges.join(", ")),
      holders.length === 0 ? el("p", {}, "Nobody holds an address.")
        : [el("h3", {}, `Holders: ${holders.length}`), few(`Holders of ${name}`, ["Service", "address"], holders.map((h) => [h.service, h.address]), (i) => { $("dialog").close(); search(holders[i].service); })],
      copying(command));
  } catch (error) {
    show(`Pool ${name}`, el("p", { class: "bad" }, `✗ ${error.message}`));
  }
}

// cell is a session in a few signs: its colour says nothing that its sign does not.
function cell(s, taken) {
  if (s.problem) return ["✗", "bad", s.sent ? s.sent.state : "cannot be", ""];
  if (!s.sent) return ["○", "plain", "intended", String(s.prefixes)];
  const up = s.sent.since ? ago(s.sent.since, taken) : "up";
  return s.sent.prefixes === s.prefixes ? ["✓", "good", up, String(s.sent.prefixes)] : ["≠", "mark", up, `${s.sent.prefixes} of ${s.prefixes}`];
}

const legend = { "✓": "up, with how many prefixes were sent", "✗": "down, or impossible", "≠": "up, and sent others than intended", "○": "intended; the speaker was not asked", "–": "no session is intended", "▽": "drained", "!": "may not be sent traffic" };
let onlyTrouble = false, redraw = () => {};

function drawGrid(status, nodes) {
  const { answer, command, taken } = nodes;
  redraw = () => drawGrid(status, nodes);
  const marks = new Map(status.answer.nodes.map((n) => [n.node, n]));
  const routers = new Map(), at = new Map();
  for (const s of answer.sessions) {
    if (!routers.has(s.peer)) routers.set(s.peer, s);
    at.set(JSON.stringify([s.node, s.peer]), s);
  }
  const peers = [...routers.keys()], all = [...new Set([...marks.keys(), ...answer.sessions.map((s) => s.node)])].sort(new Intl.Collator("en", { numeric: true }).compare);
  // Uptime changes with every read: it is part of what is drawn.
  const drawn = new Map(all.map((node) => [node, peers.map((peer) => {
    const s = at.get(JSON.stringify([node, peer]));
    return s ? cell(s, taken) : null;
  })]));
  const troubled = all.filter((node) => mark(marks.get(node)).length > 0 || drawn.get(node).some((c) => c && c[1] !== "good" && c[1] !== "plain"));
  const names = onlyTrouble ? troubled : all;
  draw("grid", [names, all.length, troubled.length, peers, names.map((n) => drawn.get(n)), [...marks.values()], command], () => {
    if (all.length === 0) return [el("p", { class: "quiet" }, "No Nodes are known."), copying(command)];
    const present = names.flatMap((node) => [...drawn.get(node).map((c) => (c ? c[0] : "–")), ...mark(marks.get(node)).map((e) => e.textContent[0])]);
    return [
      el("div", { class: "tools" }, el("button", { type: "button", "data-key": "only", "aria-pressed": String(onlyTrouble), onclick: () => { onlyTrouble = !onlyTrouble; redraw(); } }, `Only those in trouble: ${troubled.length}`),
        el("span", { class: "quiet" }, `${names.length} of ${all.length} shown`)),
      names.length === 0 ? el("p", { class: "calm" }, "No node is known to be in trouble.") : el("div", { class: "wide tall", tabindex: "-1" }, el("table", {},
        el("thead", {}, el("tr", {}, el("th", { scope: "col" }, "Node"), peers.map((peer) => el("th", { scope: "col" }, peer, el("small", {}, `AS ${routers.get(peer).asn}`))))),
        el("tbody", {}, names.map((node) => el("tr", {},
          el("th", { scope: "row" }, node, mark(marks.get(node))),
          peers.map((peer, j) => {
            const shown = drawn.get(node)[j];
            if (!shown) return el("td", {}, el("span", { class: "none", role: "img", "aria-label": "no session is intended" }, "–"));
            const [sign, colour, text, count] = shown;
            return el("td", {}, el("button", {
              type: "button", class: `cell ${colour}`, "data-key": `${node} ${peer}`, "aria-label": `${node} and ${peer}: ${legend[sign].split(",")[0]}, ${text} ${count}`,
              onclick: () => openCell(at.get(JSON.stringify([node, peer])), marks.get(node), command),
            }, el("span", {}, el("b", {}, sign), ` ${text}`), el("span", {}, count)));
          })))))),
      el("p", { class: "legend" }, Object.entries(legend).filter(([sign]) => present.includes(sign)).map(([sign, text]) => el("span", {}, `${sign} ${text}`))),
      copying(command),
    ];
  });
}

const silent = ["none", "not ready"]; // and not one that nobody could ask for

function mark(n) {
  if (!n) return [];
  const all = [];
  if (n.unfit) all.push(el("span", { class: "state bad", title: n.unfit }, "! unfit"));
  if (n.drained) all.push(el("span", { class: "state mark", title: n.drained }, "▽ drained"));
  if (silent.includes(n.speaker)) all.push(el("span", { class: "state bad" }, `✗ speaker ${n.speaker}`));
  return all;
}

function openCell(s, n, command) {
  const body = [["intended", `${s.peer} (${s.address}), AS ${s.asn}, our AS ${s.myASN}; ${prefixes(s.prefixes)}`]];
  if (s.problem) body.push([pill("bad", "✗ problem"), s.problem]);
  if (s.sent) {
    body.push(["sent", `${s.sent.state}${s.sent.since ? ` since ${s.sent.since}` : ""}; ${prefixes(s.sent.prefixes)}; attempts: ${s.sent.attempts}`]);
    if (s.sent.reason) body.push(["last reason", s.sent.reason]);
  } else {
    body.push(["sent", "nobody knows: the speaker was not asked, or did not answer"]);
  }
  if (n?.drained) body.push([pill("mark", "▽ drained"), n.drained]);
  if (n?.unfit) body.push([pill("bad", "! unfit"), n.unfit]);
  show(`${s.node} and ${s.peer}`, table(["what", "text"], body), copying(command));
}

let searching = 0;

// search asks why. The text becomes a part of the URL, so that a reload and the browser's history know it.
function search(text) {
  const hash = `#why=${encodeURIComponent(text)}`;
  if (location.hash === hash) why();
  else location.hash = hash;
}

// why follows the chain of what is in the URL; again, as long as it is there.
async function why(again = false) {
  const text = new URLSearchParams(location.hash.slice(1)).get("why");
  if (!text) return;
  const mine = again ? searching : ++searching;
  if (!again) {
    $("q").value = text;
    draw("why", null, () => [el("p", { class: "quiet" }, "Reading")]);
  }
  let data, make;
  try {
    const answer = await waiting("Following the chain", () => ask(`/api/why.json?q=${encodeURIComponent(text)}`));
    [data, make] = [[answer.answer, answer.found, answer.command], () => drawWhy(text, answer)];
  } catch (error) {
    if (again) return; // what is shown is old, as is said elsewhere
    [data, make] = [error.message, () => [el("p", { class: "bad" }, `✗ ${error.message}`)]];
  }
  if (mine !== searching) return; // somebody has asked for something else meanwhile
  draw("why", data, make);
  if (!again && document.activeElement !== $("q")) $("why").focus(); // who came by a click is shown where the answer is
}

function drawWhy(text, { answer: why, command, found = [] }) {
  if (!why) return [el("h3", {}, `Services for ${text}: ${found.length}`), rows(`Services for ${text}`, ["Service"], found.map((name) => [name]), (i) => search(found[i]))];
  return [
    el("p", { class: "verdict" }, el("strong", {}, why.service), pill(why.announced ? "good" : "bad", `${why.announced ? "✓ announced" : "✗ not announced"} (${why.source})`), why.reason ? el("span", {}, why.reason) : ""),
    unread(why).length > 0 ? list(unread(why)) : "",
    chain(why.links),
    ...(why.addresses || []).flatMap((a) => [el("h3", { class: "mono" }, a.address), chain([a.pool]), (a.nodes || []).length === 0 ? "" : whyNodes(why, a)]),
    copying(command),
  ];
}

function chain(links) {
  return el("ul", { class: "chain" }, links.map((l) => el("li", {}, state(l), el("span", { class: "quiet" }, l.name), el("span", {}, l.text))));
}

// whyNodes is the end of the chain: a row for each node, with a sign for each link.
function whyNodes(why, a) {
  return table(["Node", "Announced", ...a.nodes[0].links.map((l) => l.name), "Why"], a.nodes.map((n) => {
    const broken = n.links.find((l) => l.state === "broken"), sent = n.links[n.links.length - 1];
    const told = n.announces ? sent.told : (broken || sent).told;
    const notes = n.links.filter((l) => l.state === "remark").map((l) => l.text);
    return [
      el("button", { type: "button", class: "link", "data-key": `${a.address} ${n.node}`, onclick: () => show(`${why.service} on ${n.node}`, chain(n.links)) }, n.node),
      pill(n.announces ? "good" : "bad", `${n.announces ? "✓" : "✗ not"} ${told ? "sent" : "intended"}`),
      ...n.links.map(state),
      n.announces ? [sent.told ? sent.text : n.links[0].text, ...notes].join("; ") : n.reason || broken?.text || "-",
    ];
  }), "tall nodes");
}

// kinds are the changes of a plan, and what is said of several.
const kinds = {
  loses: ["✗", "bad", "lose"], moves: ["→", "mark", "move"], "is served": ["+", "good", "are served"],
  ends: ["✗", "bad", "end"], resets: ["↻", "mark", "reset"], begins: ["+", "good", "begin"],
  withdrawn: ["✗", "bad", "withdrawn"], changed: ["≠", "mark", "changed"], announced: ["+", "good", "announced"],
};

function change(what, text = what) {
  const [sign, colour] = kinds[what] || ["!", "mark"];
  return pill(colour, `${sign} ${text}`);
}

function drawPlan({ answer: plan, command }) {
  // A long list is of texts.
  const part = (title, head, body, what) => (body.length === 0 ? []
    : [el("h3", {}, `${title}: ${body.length}`), few(title, head, body.length > some ? body : body.map((cells) => cells.map((cell, i) => (i === what ? change(cell) : cell))))]);
  const changes = plan.services.length + plan.sessions.length + plan.prefixes.length;
  const by = (n, what) => (n ? [`${what} by ${n === 1 ? "1 node" : `${n} nodes`}`] : []);
  const count = (one, many, whats, has) => whats.map((what) => [what, has(what)]).filter(([, n]) => n > 0)
    .map(([what, n]) => change(what, n === 1 ? `1 ${one} ${what}` : `${n} ${many} ${kinds[what][2]}`));
  const counts = [
    ...count("Service", "Services", ["loses", "moves", "is served"], (what) => plan.services.filter((c) => c.what === what).length),
    ...count("session", "sessions", ["ends", "resets", "begins"], (what) => plan.sessions.filter((c) => c.what === what).length),
    ...count("prefix", "prefixes", ["withdrawn", "changed", "announced"], (what) => plan.prefixes.filter((c) => c[what]).length),
  ];
  return [
    el("p", { class: "verdict" }, pill(plan.admitted ? "good" : "bad", plan.admitted ? "✓ would be admitted" : "✗ would be refused"), el("span", { class: "quiet" }, "intended; the text ", el("code", {}, plan.hash))),
    plan.reasons.length > 0 ? el("ul", { class: "issues" }, plan.reasons.map((text) => el("li", {}, pill("bad", "✗"), located(text)))) : "",
    plan.warnings.length > 0 ? el("ul", { class: "issues" }, plan.warnings.map((text) => el("li", {}, pill("mark", "!"), located(text)))) : "",
    unread(plan).length > 0 ? list(unread(plan)) : "",
    plan.confirm ? el("div", {}, el("h3", {}, "To do it all the same, annotate the ConfigMap with this; then what follows happens"), copying(plan.confirm)) : "",
    changes === 0 && plan.admitted ? el("p", { class: "calm good" }, "✓ Nothing changes for Services, sessions and routes.") : "",
    counts.length > 0 ? el("p", { class: "verdict" }, counts) : "",
    ...part("Services", ["Service", "intended", "from", "to", "why"], plan.services.map((c) => [c.service, c.what, c.from.join(", ") || "-", c.to.join(", ") || "-", c.why || "-"]), 1),
    ...part("Sessions", ["node", "peer", "intended", "why"], plan.sessions.map((c) => [c.node, c.peer, c.what, c.why || "-"]), 2),
    ...part("Prefixes", ["prefix", "intended"], plan.prefixes.map((c) => [c.prefix, [...by(c.announced, "announced"), ...by(c.changed, "changed"), ...by(c.withdrawn, "withdrawn")].join(", ")])),
    copying(command),
  ];
}

// located makes the line of a mistake a button that leads there. Lines count from the text's first, which in a ConfigMap stands below "config: |".
function located(text) {
  const lines = $("text").value.split("\n"), match = text.match(/^line (\d+)/);
  const above = lines.flatMap((line, i) => (/^\s*config:\s*[|>]/.test(line) ? [i + 1] : []));
  if (!match || above.length > 1) return el("span", {}, text);
  const line = Number(match[1]) + (above[0] || 0);
  if (line > lines.length) return el("span", {}, text);
  const from = lines.slice(0, line - 1).join("\n").length + (line > 1 ? 1 : 0);
  return el("span", {}, el("button", {
    type: "button", class: "link",
    onclick: () => {
      const box = $("text");
      box.focus();
      box.setSelectionRange(from, from + lines[line - 1].length);
      box.scrollTop = Math.max(0, (line - 5) * 20);
    },
  }, match[0]), text.slice(match[0].length));
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
  draw("why", "", () => []);
  history.replaceState(null, "", location.pathname);
});
addEventListener("hashchange", () => why());
addEventListener("keydown", (event) => {
  if (event.key !== "/" || event.ctrlKey || event.metaKey || event.altKey || $("dialog").open || document.activeElement.matches("input, textarea")) return;
  event.preventDefault();
  $("q").focus();
  $("q").select();
});
$("text").addEventListener("input", () => {
  $("lines").textContent = Array.from({ length: $("text").value.split("\n").length }, (_, i) => i + 1).join("\n");
  $("lines").scrollTop = $("text").scrollTop;
});
$("text").addEventListener("scroll", () => { $("lines").scrollTop = $("text").scrollTop; });
$("text").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) $("plan").requestSubmit();
});
$("plan").addEventListener("submit", async (event) => {
  event.preventDefault();
  const box = $("verdict"), button = event.target.querySelector("button");
  if (button.disabled) return; // it computes already
  button.disabled = true;
  box.replaceChildren(el("p", { class: "quiet" }, "Computing"));
  try {
    const answer = await waiting("Computing the plan", () => ask("/api/plan.json", { method: "POST", headers: { "Content-Type": "application/yaml" }, body: $("text").value }));
    box.replaceChildren(...drawPlan(answer).filter(Boolean));
  } catch (error) {
    box.replaceChildren(el("p", { class: "bad" }, `✗ ${error.message}`));
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
    drawFigures(status, nodes);
    drawStatus(status);
    drawGrid(status, nodes);
    await why(true);
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
why();
