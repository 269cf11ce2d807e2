"use strict";
// Everything that comes from a record goes through textContent: whatever a model wrote stays text.
const marks = JSON.parse(document.getElementById("marks").textContent); // of characters that leave no ink
const panel = document.getElementById("panel");

function element(tag, text, kind, parent) {
  const made = document.createElement(tag);
  if (text !== undefined && text !== null) made.textContent = text;
  if (kind) made.className = kind;
  if (parent) parent.append(made);
  return made;
}

function percent(logprob) {
  if (logprob === null) return "0";
  const p = 100 * Math.exp(logprob);
  if (p >= 99.95) return "100";
  if (p >= 9.95) return p.toFixed(1);
  return p >= 1e-3 ? String(Number(p.toPrecision(2))) : p.toExponential(0);
}

const number = (x, digits = 3) => (x === null || x === undefined ? "–" : x.toFixed(digits));

function factor(logRatio) {
  if (logRatio === null) return "×0";
  const f = Math.exp(Math.abs(logRatio));
  return (logRatio < 0 ? "÷" : "×") + (f >= 1e4 ? f.toExponential(0) : f >= 100 ? Math.round(f) : f.toPrecision(2));
}

const onOneLine = (text) => [...text].map((c) => marks[c] ?? c).join("") || marks[""];

const isolated = (text, parent) => element("bdi", onOneLine(text), null, parent);

// What all models thought of the tokens of a piece, as `packed` in pieces.py has it. The last one is kept.
function piece(view, p) {
  if (view.last?.p !== p) view.last = { p, rows: inflated(view.data[p].textContent) };
  return view.last.rows;
}

async function inflated(text) {
  const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return JSON.parse(await new Response(stream).text());
}

async function thought(view, t) {
  const p = view.record.starts.findLastIndex((start) => start <= t);
  const rows = await piece(view, p);
  const named = ([place, ...figures]) => ({ id: view.record.pool[place][0], text: view.record.pool[place][1], figures });
  const [place, logprobs, entropy, rank, candidates, up, down, speculation, attribution] = rows[t - view.record.starts[p]];
  const lists = { candidates: candidates.map(named), up: up.map(named), down: down.map(named) };
  return { ...named([place, ...logprobs]), entropy, rank, ...lists, speculation, attribution };
}

function candidates({ names, compared }, token) {
  const table = element("table", null, null, panel);
  element("caption", `probabilities in %; change of the mixture against ${compared}`, "quiet", table);
  const head = element("tr", null, null, element("thead", null, null, table));
  const against = names.indexOf(compared);
  for (const name of ["token", ...names, "change"]) element("th", name, null, head).scope = "col";
  const body = element("tbody", null, null, table);
  const listed = token.candidates.some((c) => c.id === token.id)
    ? token.candidates
    : [...token.candidates, token];
  const likely = (c) => c.id === token.id || c.figures.some((x) => x !== null && x > Math.log(1e-4));
  const some = listed.filter(likely);
  for (const candidate of (some.length < 3 ? listed.slice(0, 3) : some).slice(0, 12)) {
    const row = element("tr", null, candidate.id === token.id ? "own" : null, body);
    isolated(candidate.text, element("td", null, null, row));
    for (const logprob of candidate.figures) {
      const cell = element("td", percent(logprob), "share", row);
      cell.style.setProperty("--share", logprob === null ? 0 : Math.exp(logprob));
    }
    const [p, q] = [candidate.figures.at(-1), against < 0 ? null : candidate.figures[against]];
    const change = p === null || q === null ? null : p - q;
    const arrow = change === null || Math.abs(change) < 0.005 ? "" : change > 0 ? "↑ " : "↓ ";
    element("td", arrow && arrow + factor(change), change > 0 ? "up" : "down", row);
  }
  if (token.entropy.length) {
    const row = element("tr", null, "quiet", body);
    element("td", "entropy", null, row);
    for (const entropy of token.entropy) element("td", number(entropy, 2), null, row);
    element("td", "nats", null, row);
  }
}

function changes(title, arrow, kind, list) {
  if (!list.length) return;
  const line = element("p", null, "changes", panel);
  element("span", title, "quiet", line);
  for (const change of list) {
    const item = element("span", arrow + " ", kind, line);
    isolated(change.text, item);
    item.append(" " + factor(change.figures[0]));
  }
}

const figure = (view, key, t, digits) => number(view.record.measures[key][t], digits);

let asked = 0;

async function show(view, t) {
  const question = (asked += 1);
  panel.ariaBusy = "true";
  const token = await thought(view, t);
  if (question !== asked) return; // another token is pointed at by now
  panel.ariaBusy = null;
  panel.replaceChildren();
  panel.className = "";
  element("bdi", view.spans[t].textContent, null, element("h3", null, null, panel));
  const rank = token.rank.length ? `, rank ${token.rank.at(-1) + 1} of the mixture` : "";
  element("p", `token ${t + 1} of ${view.spans.length}, id ${token.id}${rank}`, "quiet", panel);
  const [tv, kl, reward] = [figure(view, "tv", t), figure(view, "kl", t), figure(view, "reward", t, 2)];
  element("p", `total variation ${tv} · KL ${kl} · reward ${reward}`, "figures", panel);
  if (token.speculation) {
    const mark = { accepted: "✓ accepted draft", rejected: "✗ drawn after a rejected draft", bonus: "+ bonus after the draft" };
    element("p", mark[token.speculation], token.speculation === "rejected" ? "down" : "up", panel);
  }
  candidates(view.record, token);
  // Where next to nothing moved, what moved most is noise.
  if (view.record.measures.tv[t] === null || view.record.measures.tv[t] > 0.002) {
    changes("gains most:", "↑", "up", token.up);
    changes("loses most:", "↓", "down", token.down);
  }
  if (token.attribution) {
    const parts = Object.entries(token.attribution).map(([name, x]) => `${name} ${number(x)}`);
    element("p", parts.join(" · "), "quiet", panel);
  }
}
