// Small charts as SVG. Values go in as numbers and text as text nodes: nothing that came from data is ever parsed as markup.
const SVG = "http://www.w3.org/2000/svg";
const W = 360, H = 190, LEFT = 58, BOTTOM = 34, TOP = 10, RIGHT = 10;

function node(name, attributes, ...children) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

function short(value, digits = 0) {
  const size = Math.abs(value);
  if (size >= 1e6) return `${+(value / 1e6).toFixed(1)}M`;
  if (size >= 1e4) return `${+(value / 1e3).toFixed(1)}k`;
  return value.toFixed(digits);
}

// round steps (1, 2 or 5 times a power of ten) whose first and last hold all values; digits: how many tell two apart
export function ticks(low, high, wanted = 4) {
  const rough = (high - low || Math.abs(high) || 1) / wanted;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 5, 10].find((times) => times * power >= rough * 0.999);
  const first = Math.floor(low / step + 1e-9), last = Math.max(Math.ceil(high / step - 1e-9), first + 1);
  const values = Array.from({ length: last - first + 1 }, (_, n) => (first + n) * step);
  return { values, digits: Math.max(0, -Math.floor(Math.log10(step) + 1e-9)) };
}

function frame(title, xLabel, yLabel, low, high) {
  const chart = node("svg", { viewBox: `0 0 ${W} ${H}`, role: "img", "aria-label": title });
  const { values, digits } = ticks(low, high);
  const [bottom, top] = [values[0], values.at(-1)];
  const y = (v) => H - BOTTOM - ((v - bottom) / (top - bottom)) * (H - BOTTOM - TOP);
  for (const value of values) {
    chart.append(
      node("line", { class: "axis", x1: LEFT, x2: W - RIGHT, y1: y(value), y2: y(value) }),
      node("text", { class: "tick", x: LEFT - 6, y: y(value) + 4, "text-anchor": "end" }, short(value, digits)),
    );
  }
  chart.append(
    node("text", { x: (LEFT + W - RIGHT) / 2, y: H - 2, "text-anchor": "middle" }, xLabel),
    node("text", { x: 0, y: 0, transform: `translate(9 ${(H - BOTTOM) / 2 + TOP}) rotate(-90)`, "text-anchor": "middle" }, yLabel),
  );
  return { chart, y };
}

// points: [[x, y], ...]; marks: [[x, words], ...], each a dashed line where something begins
export function lines(title, xLabel, yLabel, points, marks = []) {
  const ys = points.map((p) => p[1]), xs = points.map((p) => p[0]);
  const [left, right] = [Math.min(...xs), Math.max(...xs)];
  const { chart, y } = frame(title, xLabel, yLabel, Math.min(...ys), Math.max(...ys));
  const x = (v) => LEFT + ((v - left) / (right - left || 1)) * (W - LEFT - RIGHT);
  for (const [at, words] of marks.filter(([at]) => at > left && at < right)) {
    chart.append(node("line", { class: "mark", x1: x(at), x2: x(at), y1: TOP, y2: H - BOTTOM }),
      node("text", { x: x(at) + (x(at) < W / 2 ? 4 : -4), y: TOP + 9, "text-anchor": x(at) < W / 2 ? "start" : "end" }, words));
  }
  const path = points.map(([a, b], n) => `${n ? "L" : "M"}${x(a).toFixed(1)} ${y(b).toFixed(1)}`).join("");
  chart.append(node("path", { class: "a", d: path }));
  for (const value of [left, right]) chart.append(node("text", { x: x(value), y: H - 18, "text-anchor": "middle" }, short(value)));
  return chart;
}

// bars: [[label, value], ...]; every n-th label is written
export function bars(title, xLabel, yLabel, values, every = 1) {
  const { chart, y } = frame(title, xLabel, yLabel, 0, Math.max(...values.map((v) => v[1]), 1e-12));
  const width = (W - LEFT - RIGHT) / values.length;
  values.forEach(([label, value], place) => {
    const at = LEFT + place * width;
    const bar = node("rect", { class: "bar", x: at + width * 0.1, width: width * 0.8, y: y(value), height: y(0) - y(value) });
    bar.append(node("title", {}, `${label}: ${value}`));
    chart.append(bar);
    if (place % every === 0) chart.append(node("text", { x: at + width / 2, y: H - 18, "text-anchor": "middle" }, String(label)));
  });
  return chart;
}
