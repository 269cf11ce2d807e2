const menu = document.getElementById("measure");
let kept = null; // the token that a click or Enter keeps in the panel
let here = []; // what is marked as shown in the panel

const rest = () => new Promise((done) => setTimeout(done)); // the page answers its reader meanwhile

class View {
  constructor(section) {
    this.section = section;
    this.text = section.querySelector(".text");
    this.chart = section.querySelector(".chart");
    this.spans = [...section.querySelectorAll(".token")];
    this.stop = this.spans[0]; // where the Tab key arrives
    this.data = [...this.text.querySelectorAll("script")]; // of each piece
  }

  // Names, figures and shades of a whole record, read when they are first needed: a page may have hundreds.
  get record() {
    const record = JSON.parse(this.section.querySelector("script[type='application/json']").textContent);
    record.ends = [...record.starts.slice(1), this.spans.length];
    Object.defineProperty(this, "record", { value: record });
    return record;
  }
}

const views = [...document.querySelectorAll("section")].map((section) => new View(section));

function point(view, t) {
  show(view, t);
  for (const old of here) old.classList.remove("here");
  here = [view.spans[t], view.bar];
  const width = view.chart.viewBox.baseVal.width;
  view.bar.setAttribute("x", (t * width) / view.spans.length);
  for (const one of here) one.classList.add("here");
}

function keep(span) {
  if (kept) kept.classList.remove("kept");
  kept = span === kept ? null : span;
  if (!kept) return;
  kept.classList.add("kept");
  kept.scrollIntoView({ block: "nearest" }); // on a phone, not under the panel
}

// Only the token that has the keys is a button with a name: for all of them it would take the browser seconds.
function stopAt(view, span) {
  for (const name of ["tabindex", "role", "aria-label"]) view.stop.removeAttribute(name);
  view.stop = span;
  const t = view.spans.indexOf(span);
  const shaded = `${menu.selectedOptions[0].textContent} ${figure(view, menu.value, t)}`;
  span.tabIndex = 0;
  span.role = "button";
  span.ariaLabel = `${span.textContent}, token ${t + 1}, ${shaded}`;
}

function listen(view) {
  const { text, spans, chart } = view;
  // Not pointerover: keys scroll the text, and what comes to lie under a resting pointer is not pointed at.
  text.addEventListener("pointermove", (event) => {
    const t = spans.indexOf(event.target);
    if (t >= 0 && !kept && here[0] !== spans[t]) point(view, t);
  });
  text.addEventListener("focusin", (event) => {
    if (kept) keep(kept);
    point(view, spans.indexOf(event.target));
  });
  text.addEventListener("click", (event) => {
    const t = spans.indexOf(event.target);
    if (t < 0) return;
    keep(event.target);
    point(view, t);
  });
  text.addEventListener("keydown", (event) => {
    const now = spans.indexOf(event.target);
    if (now < 0) return;
    const forward = getComputedStyle(text).direction === "rtl" ? -1 : 1;
    const steps = { ArrowRight: forward, ArrowLeft: -forward, ArrowDown: 10, ArrowUp: -10, Home: -now, End: spans.length };
    if (event.key in steps) {
      stopAt(view, spans[Math.max(0, Math.min(spans.length - 1, now + steps[event.key]))]);
      view.stop.focus();
    } else if (event.key === "Enter" || event.key === " ") {
      keep(event.target);
    } else {
      return;
    }
    event.preventDefault();
  });
  const place = (event) => {
    const box = chart.getBoundingClientRect();
    const t = Math.floor(((event.clientX - box.left) / box.width) * spans.length);
    if (!kept && t >= 0 && t < spans.length) point(view, t);
  };
  chart.addEventListener("pointermove", place);
  chart.addEventListener("click", place);
  const details = view.section.querySelector("details");
  details.addEventListener("toggle", () => makeTables(view, details), { once: true });
}

for (const view of views) {
  view.bar = document.createElementNS("http://www.w3.org/2000/svg", "rect");
  const { width, height } = view.chart.viewBox.baseVal;
  view.bar.setAttribute("width", Math.max(2, (0.86 * width) / view.spans.length));
  view.bar.setAttribute("height", height);
  view.chart.append(view.bar);
  listen(view);
}

document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && kept) keep(kept);
});

menu.addEventListener("change", async () => {
  const { value } = menu;
  const option = menu.selectedOptions[0];
  document.getElementById("explained").textContent = option.dataset.explained;
  let since = 0;
  for (const view of views) {
    for (const path of view.chart.querySelectorAll("path")) path.toggleAttribute("hidden", path.dataset.measure !== value);
    view.chart.setAttribute("aria-label", `${option.textContent} over the positions`);
    view.section.querySelector(".axis-name").textContent = `${option.textContent}, ${option.dataset.explained}`;
    stopAt(view, view.stop);
    for (const [t, span] of view.spans.entries()) {
      span.style.setProperty("--shade", view.record.shades[value][t]);
      since += 1;
      if (since % 1000) continue;
      await rest();
      if (menu.value !== value) return; // the reader has picked another meanwhile
    }
  }
});
panel.className = "empty";
