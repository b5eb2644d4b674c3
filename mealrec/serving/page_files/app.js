// The page of the endpoint: a viewer's history and recommendations as film strips, and the report of the run behind a version.
import { bars, lines } from "./charts.js";

const $ = (id) => document.getElementById(id);
const state = { alias: "champion", user: null, token: sessionStorage.getItem("token") };

// text is always set as text: ids and titles come from logs and catalogues that anybody may have written
function el(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (value !== null && value !== undefined && value !== false) made.setAttribute(key, value === true ? "" : value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

async function ask(path) {
  const headers = state.token ? { Authorization: `Bearer ${state.token}` } : {};
  const answer = await fetch(path, { headers });
  if (answer.status === 401) $("token").hidden = false;
  const body = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Error(body.error || `${path} answered ${answer.status}`);
  return body;
}

function trouble(error) {
  $("problem").textContent = error ? error.message : "";
  $("problem").hidden = !error;
}

async function guarded(work) {
  try {
    trouble(null);
    await work();
  } catch (error) {
    trouble(error);
  }
}

const seconds = (ms) => (ms < 0 ? "" : `${(ms / 1000).toFixed(1)} s`);
const minute = (iso) => `${new Date(iso).toISOString().slice(0, 16).replace("T", " ")} UTC`;
const percent = (share) => `${(100 * share).toFixed(0)} %`;
const fixed = (value, digits = 4) => (typeof value === "number" ? value.toFixed(digits) : "–");

function frames(strip) {
  if (!strip.frames.length) return el("p", { class: "why" }, "No frames: known by its ID, title or nothing.");
  const top = Math.max(...strip.frames.map((f) => f.weight));
  const uniform = 1 / strip.frames.length;
  return el("div", { class: "frames" }, ...strip.frames.map((f) => {
    const bar = el("i");
    bar.style.height = `${Math.max(2, (34 * f.weight) / top)}px`;
    const label = `${seconds(f.time_ms)} weight ${percent(f.weight)}`.trim();
    const picture = f.picture ? el("img", { src: f.picture, alt: `frame, ${label}` }) : el("span", { class: "blank" });
    const salient = f.weight > 1.2 * uniform;
    return el("figure", { class: salient ? "frame salient" : "frame", title: label, "data-weight": f.weight },
      el("div", { class: "bar" }, bar), picture,
      el("figcaption", {}, `${seconds(f.time_ms)} `, el("b", {}, percent(f.weight))));
  }));
}

function strip(one, { rank = null, why = null, differs = false }) {
  return el("article", { class: differs ? "strip differs" : "strip", "data-video": one.video_id },
    el("header", {}, rank && el("span", { class: "rank" }, `${rank}.`), el("h3", {}, one.title || "(no title)"),
      el("span", { class: "muted" }, one.video_id)),
    frames(one), why && el("p", { class: "why" }, why));
}

function reasons(one) {
  const near = one.nearest.map((n) => `${n.title || n.video_id} (${n.cosine.toFixed(2)})`).join(", ");
  const moment = one.frames.length ? one.frames.reduce((a, b) => (b.weight > a.weight ? b : a)) : null;
  return [near && `Near in the history: ${near}.`, moment && `Most salient at ${seconds(moment.time_ms)}.`,
    `Watched ${one.watched} times, more than ${percent(one.more_popular_than)} of the videos. Score ${one.score.toFixed(2)}.`]
    .filter(Boolean).join(" ");
}

function recommendations(found, others) {
  return el("section", { class: "recommended", "data-version": found.version },
    el("h2", {}, `Recommended by ${found.alias} `, el("span", { class: "muted" }, `version ${found.version}`)),
    ...found.recommended.map((one, place) =>
      strip(one, { rank: place + 1, why: reasons(one), differs: others && !others.has(one.video_id) })));
}

async function showViewer() {
  if (state.user === null) return;
  const target = $("viewer");
  target.replaceChildren(el("p", { class: "muted" }, "Loading…"));
  const wanted = state.alias === "both" ? ["champion", "challenger"] : [state.alias];
  const path = `/page/viewers/${encodeURIComponent(state.user)}`;
  const found = await Promise.all(wanted.map((alias) => ask(`${path}?alias=${alias}`)));
  const ids = found.map((f) => new Set(f.recommended.map((r) => r.video_id)));
  const first = found[0];
  target.replaceChildren(
    el("h2", {}, `Viewer ${first.user_id} `, el("span", { class: "muted" }, `${first.length} videos watched, newest first; `
      + "bars: how much each frame counts for this viewer")),
    el("div", { class: "columns" },
      el("section", { class: "history" }, el("h2", {}, "History"),
        ...(first.history.length ? first.history.map((one) => strip(one, {})) : [el("p", { class: "muted" }, "Nothing yet: recommendations are by recent popularity.")])),
      ...found.map((one, place) => recommendations(one, found.length > 1 ? ids[1 - place] : null))));
}

async function listViewers() {
  const { viewers } = await ask(`/page/viewers?q=${encodeURIComponent($("search").value)}`);
  $("viewer-list").replaceChildren(...viewers.map((v) => el("li", {}, el("button", {
    type: "button", "aria-current": v.user_id === state.user ? "true" : null,
    onclick: () => { state.user = v.user_id; guarded(async () => { await listViewers(); await showViewer(); }); },
  }, el("span", {}, v.user_id), el("span", { class: "muted" }, String(v.length))))));
  if (!viewers.length) $("viewer-list").replaceChildren(el("li", { class: "muted" }, "No viewer's id begins so."));
}

// counts are numbers, measures are wrapped by `measure`: a metric of exactly 1 still has its four digits
const measure = (value, digits = 4) => el("span", { "data-n": "" }, fixed(value, digits));
const isNumber = (value) => typeof value === "number" || (value instanceof HTMLElement && "n" in value.dataset);

function table(head, rows) {
  const numeric = head.map((_, column) => rows.some((row) => isNumber(row[column])));
  const cell = (kind, value, column) => el(kind, { class: numeric[column] ? "n" : null },
    value instanceof Node ? value : String(value ?? "–"));
  return el("table", {}, el("thead", {}, el("tr", {}, ...head.map((h, column) => cell("th", h, column)))),
    el("tbody", {}, ...rows.map((row) => el("tr", {}, ...row.map((value, column) => cell("td", value, column))))));
}

const card = (title, ...content) => el("section", { class: "card", "data-plot": title }, el("h3", {}, title), ...content);
const wide = (title, ...content) => {
  const made = card(title, ...content);
  made.classList.add("wide");
  return made;
};
const none = (words) => el("p", { class: "muted" }, words);

function metricCards(report) {
  const systems = Object.entries(report.metrics.test);
  const span = (name) => {
    const found = report.intervals["ndcg@10"][name];
    return found ? `${found.mean >= 0 ? "+" : ""}${fixed(found.mean)} [${fixed(found.low)}, ${fixed(found.high)}]` : "";
  };
  return [
    wide("Metrics", table(["system", "HR@10", "NDCG@10", "MRR@10", "NDCG@10 of MealRec minus it"],
      systems.map(([name, m]) => [name, measure(m["hr@10"]), measure(m["ndcg@10"]), measure(m["mrr@10"]), span(name)]))),
    card("NDCG@10", bars("NDCG@10 by system", "system", "NDCG@10", systems.map(([name, m]) => [name, m["ndcg@10"]]))),
    wide("Slices", table(["slice", "viewers", ...systems.map(([name]) => `HR@10 ${name}`)],
      report.slices.map((s) => [s.slice, s.viewers, ...systems.map(([name]) => measure(s[name]))]))),
  ];
}

function curveCards(curves) {
  const names = [...new Set(curves.flatMap((row) => Object.keys(row)))].filter((n) => !["stage", "epoch", "seconds", "step"].includes(n));
  const plotted = names.map((name) => [name, curves.map((row, n) => [n + 1, row[name]]).filter((p) => typeof p[1] === "number")]);
  const begins = curves.flatMap((row, n) => (n && row.stage !== curves[n - 1].stage ? [[n + 1, `${row.stage} from here`]] : []));
  return plotted.filter(([, points]) => points.length > 1)
    .map(([name, points]) => card(`Curve: ${name}`, lines(name, "epoch, all stages", name, points, begins)));
}

function profileCards(profile) {
  if (!profile) return [card("Data profile", none("No table yet."))];
  const bins = profile.watch_ratio.counts.map((count, n, all) => [(n * profile.watch_ratio.to / all.length).toFixed(1), count]);
  const day = (ms) => new Date(ms).toISOString().slice(0, 10);
  const rows = `${profile.rows} interactions${profile.whole ? "" : " (the first of them)"}, ${day(profile.first_ms)} to ${day(profile.last_ms)} UTC`;
  return [
    card("Watch ratio", none(rows), bars("Watch ratio", "watched share of the video", "interactions", bins, 5)),
    card("Hour of day", none(rows), bars("Hour of day", "hour, UTC", "interactions", profile.hour.map((c, n) => [n, c]), 4)),
    card("Event types", bars("Event types", "type", "interactions", Object.entries(profile.event_type))),
  ];
}

function driftCard(drift) {
  if (!drift) return card("Drift", none("Not measured yet: `mealrec drift` compares the tables with those the champion was trained on."));
  const rows = (drift.quantities || []).map((q) =>
    [q.group, q.name, q.measure, measure(q.value, 3), measure(q.warn, 3), measure(q.alarm, 3), el("span", { class: q.state }, q.state), q.moved]);
  const head = ["group", "quantity", "measure", "value", "warn from", "alarm from", "state", "what moved"];
  return wide("Drift", none(`Overall: ${drift.state}, ${minute(drift.when)}`), rows.length ? table(head, rows) : none("The tables are those that the champion was trained on."));
}

async function showRun() {
  const target = $("run-view");
  target.replaceChildren(el("p", { class: "muted" }, "Loading…"));
  const alias = state.alias === "challenger" ? "challenger" : "champion";
  const found = await ask(`/page/run?alias=${alias}`);
  const quarantined = (t) => Object.entries(t.quarantined ?? {}).map(([reason, n]) => `${reason} ${n}`).join(", ") || "none";
  const ablations = found.ablations
    ? table(["dataset", "model", "HR@10", "NDCG@10", "seeds"], found.ablations.map((a) => [a.dataset, a.model, measure(a["hr@10"]), measure(a["ndcg@10"]), a.seeds]))
    : none("No result file was given: serve.benchmarks names one made by `mealrec bench quality`.");
  target.replaceChildren(
    el("h2", {}, `Version ${found.version} `, el("span", { class: "muted" },
      `${found.aliases.join(", ") || "no alias"}; ${found.report.viewers} test viewers, ${found.report.items} videos`)),
    el("div", { class: "cards" }, ...metricCards(found.report), ...curveCards(found.report.curves)),
    el("h2", {}, "Data"),
    el("div", { class: "cards" },
      wide("Tables", table(["table", "version", "rows in", "rows out", "quarantined", "seconds"],
        found.tables.map((t) => [t.table, t.version, t.rows_in, t.rows_out, quarantined(t), measure(t.seconds, 1)]))),
      ...profileCards(found.profile), driftCard(found.drift)),
    el("h2", {}, "Decisions"),
    el("div", { class: "cards" },
      wide("Promotions", found.promotions.length ? table(["when", "who", "action", "version", "from", "why"],
        found.promotions.map((p) => [minute(p.when), p.who, p.action, p.version, p.from_version, p.reasons.join("; ")])) : none("None yet.")),
      wide("Ablations and baselines", ablations)));
}

function route() {
  const run = location.hash === "#run";
  $("run-view").hidden = !run;
  $("viewers-view").hidden = run;
  $("to-run").toggleAttribute("aria-current", run);
  $("to-viewers").toggleAttribute("aria-current", !run);
  guarded(run ? showRun : showViewer);
}

async function start() {
  const { model, aliases } = await ask("/page/aliases");
  $("versions").textContent = `${model} · ` + Object.entries(aliases)
    .map(([alias, served]) => `${alias} ${served ? `version ${served.version}` : "none"}`).join(" · ");
  for (const input of document.querySelectorAll("input[name=alias]")) {
    input.disabled = input.value !== "champion" && !aliases.challenger;
    input.addEventListener("change", () => { state.alias = input.value; route(); });
  }
  await listViewers();
}

let waiting;
$("search").addEventListener("input", () => { clearTimeout(waiting); waiting = setTimeout(() => guarded(listViewers), 150); });
$("token").addEventListener("submit", (event) => {
  event.preventDefault();
  state.token = new FormData(event.target).get("token");
  sessionStorage.setItem("token", state.token);
  $("token").hidden = true;
  guarded(async () => { await start(); route(); });
});
addEventListener("hashchange", route);
guarded(async () => { await start(); route(); });
