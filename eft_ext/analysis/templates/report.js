"use strict";
// Everything that comes from a record goes through textContent: whatever a model wrote stays text.
const data = JSON.parse(document.getElementById("data").textContent);
const marks = JSON.parse(document.getElementById("marks").textContent); // of characters that leave no ink
const panel = document.getElementById("panel");
const menu = document.getElementById("measure");
let kept = null; // the token that a click or Enter keeps in the panel

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

function isolated(text, parent) {
  return element("bdi", [...text].map((c) => marks[c] ?? c).join("") || marks[""], null, parent);
}

function candidates(record, token) {
  const table = element("table", null, null, panel);
  element("caption", `probabilities in %; change of the mixture against ${record.compared}`, "quiet", table);
  const head = element("tr", null, null, element("thead", null, null, table));
  const compared = record.names.indexOf(record.compared);
  for (const name of ["token", ...record.names, "change"]) element("th", name, null, head).scope = "col";
  const body = element("tbody", null, null, table);
  const listed = token.candidates.some((c) => c.id === token.id)
    ? token.candidates
    : [...token.candidates, { id: token.id, text: token.text, logprobs: token.logprobs }];
  const likely = (c) => c.id === token.id || c.logprobs.some((x) => x !== null && x > Math.log(1e-4));
  const some = listed.filter(likely);
  for (const candidate of (some.length < 3 ? listed.slice(0, 3) : some).slice(0, 12)) {
    const row = element("tr", null, candidate.id === token.id ? "own" : null, body);
    isolated(candidate.text, element("td", null, null, row));
    for (const logprob of candidate.logprobs) {
      const cell = element("td", percent(logprob), "share", row);
      cell.style.setProperty("--share", logprob === null ? 0 : Math.exp(logprob));
    }
    const [p, q] = [candidate.logprobs.at(-1), compared < 0 ? null : candidate.logprobs[compared]];
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
    item.append(" " + factor(change.log_ratio));
  }
}

function show(r, t) {
  const { record, measures, shown } = data[r];
  const token = record.tokens[t];
  panel.replaceChildren();
  panel.className = "";
  element("bdi", shown[t], null, element("h3", null, null, panel));
  const rank = token.rank.length ? `, rank ${token.rank.at(-1) + 1} of the mixture` : "";
  element("p", `token ${t + 1} of ${record.tokens.length}, id ${token.id}${rank}`, "quiet", panel);
  const figures = `total variation ${number(token.tv)} · KL ${number(token.kl)} · reward ${number(measures.reward[t], 2)}`;
  element("p", figures, "figures", panel);
  if (token.speculation) {
    const mark = { accepted: "✓ accepted draft", rejected: "✗ drawn after a rejected draft", bonus: "+ bonus after the draft" };
    element("p", mark[token.speculation], token.speculation === "rejected" ? "down" : "up", panel);
  }
  candidates(record, token);
  // Where next to nothing moved, what moved most is noise.
  if (token.tv === null || token.tv > 0.002) {
    changes("gains most:", "↑", "up", token.up);
    changes("loses most:", "↓", "down", token.down);
  }
  if (token.attribution) {
    const parts = Object.entries(token.attribution).map(([name, x]) => `${name} ${number(x)}`);
    element("p", parts.join(" · "), "quiet", panel);
  }
  for (const old of document.querySelectorAll(".here")) old.classList.remove("here");
  for (const same of document.querySelectorAll(`[data-record="${r}"] [data-token="${t}"]`)) same.classList.add("here");
}

function keep(span) {
  for (const old of document.querySelectorAll(".kept")) old.classList.remove("kept");
  kept = span === kept ? null : span;
  if (!kept) return;
  kept.classList.add("kept");
  kept.scrollIntoView({ block: "nearest" }); // on a phone, not under the panel
}

for (const section of document.querySelectorAll("section")) {
  const r = Number(section.dataset.record);
  const spans = [...section.querySelectorAll(".token")];
  const point = (event) => {
    const t = event.target.dataset && event.target.dataset.token;
    if (t !== undefined && !kept) show(r, Number(t));
  };
  const text = section.querySelector(".text");
  text.addEventListener("pointerover", point);
  text.addEventListener("focusin", (event) => {
    for (const span of spans) span.tabIndex = span === event.target ? 0 : -1;
    if (kept) keep(kept);
    show(r, Number(event.target.dataset.token));
  });
  text.addEventListener("click", (event) => {
    if (!event.target.classList.contains("token")) return;
    keep(event.target);
    show(r, Number(event.target.dataset.token));
  });
  text.addEventListener("keydown", (event) => {
    const here = spans.indexOf(event.target);
    if (here < 0) return;
    const forward = getComputedStyle(text).direction === "rtl" ? -1 : 1;
    const steps = { ArrowRight: forward, ArrowLeft: -forward, ArrowDown: 10, ArrowUp: -10, Home: -here, End: spans.length };
    if (event.key in steps) {
      spans[Math.max(0, Math.min(spans.length - 1, here + steps[event.key]))].focus();
    } else if (event.key === "Enter" || event.key === " ") {
      keep(event.target);
    } else {
      return;
    }
    event.preventDefault();
  });
  const chart = section.querySelector(".chart");
  const place = (event) => {
    const box = chart.getBoundingClientRect();
    const t = Math.floor(((event.clientX - box.left) / box.width) * spans.length);
    if (!kept && t >= 0 && t < spans.length) show(r, t);
  };
  chart.addEventListener("pointermove", place);
  chart.addEventListener("click", place);
}

document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && kept) keep(kept);
});

menu.addEventListener("change", () => {
  const option = menu.selectedOptions[0];
  document.getElementById("explained").textContent = option.dataset.explained;
  for (const section of document.querySelectorAll("section")) {
    const view = data[Number(section.dataset.record)];
    const shades = view.shades[menu.value];
    const chart = section.querySelector(".chart");
    const height = chart.viewBox.baseVal.height;
    for (const span of section.querySelectorAll(".token")) {
      const t = Number(span.dataset.token);
      span.style.setProperty("--shade", shades[t]);
      span.ariaLabel = `${view.shown[t]}, token ${t + 1}, ${option.textContent} ${number(view.measures[menu.value][t])}`;
    }
    for (const bar of chart.querySelectorAll("rect")) {
      const shade = shades[Number(bar.dataset.token)];
      bar.setAttribute("y", height * (1 - shade));
      bar.setAttribute("height", height * shade);
    }
    chart.setAttribute("aria-label", `${option.textContent} over the positions`);
    section.querySelector(".axis-name").textContent = `${option.textContent}, ${option.dataset.explained}`;
  }
});
panel.className = "empty";
