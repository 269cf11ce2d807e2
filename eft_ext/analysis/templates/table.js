// The table of a record, made when it is opened; of a long one, each piece's when that is.
const apart = (text) => `\u2068${onOneLine(text)}\u2069`; // isolated, as bdi does with an element more

async function tableRow(view, t, body) {
  const token = await thought(view, t);
  const row = element("tr", null, null, body);
  element("td", t + 1, null, row);
  element("th", apart(token.text), null, row).scope = "row";
  for (const logprob of token.figures) element("td", percent(logprob), null, row);
  const rank = token.rank.length ? token.rank.at(-1) + 1 : "–";
  const figures = ["tv", "kl", "entropy", "reward"].map((key) => figure(view, key, t));
  const [up, down] = [["↑", token.up], ["↓", token.down]].map(([arrow, changes]) =>
    changes.slice(0, 3).map((change) => `${arrow} ${apart(change.text)}`).join(" "));
  for (const text of [rank, ...figures, token.speculation ?? "–", up, down]) element("td", text, null, row);
}

async function makeTable(view, p, parent) {
  const figures = ["rank", "total variation", "KL", "entropy", "reward", "draft", "more likely", "less likely"];
  const wide = element("div", null, "wide", parent);
  Object.assign(wide, { role: "region", ariaLabel: "Table of tokens", tabIndex: 0 });
  const table = element("table", null, null, wide);
  const head = element("tr", null, null, element("thead", null, null, table));
  const names = view.record.names.map((name) => `p ${name}, %`);
  for (const name of ["#", "token", ...names, ...figures]) element("th", name, null, head).scope = "col";
  const body = element("tbody", null, null, table);
  for (let t = view.record.starts[p]; t < view.record.ends[p]; t += 1) await tableRow(view, t, body);
}

function makeTables(view, parent) {
  if (view.record.starts.length === 1) return makeTable(view, 0, parent);
  for (const [p, start] of view.record.starts.entries()) {
    const details = element("details", null, null, parent);
    element("summary", `tokens ${start + 1} to ${view.record.ends[p]}`, null, details);
    details.addEventListener("toggle", () => makeTable(view, p, details), { once: true });
  }
}
