// Small charts as SVG. Values go in as numbers and text as text nodes: nothing that came from data is ever parsed as markup.
const SVG = "http://www.w3.org/2000/svg";
const W = 360, H = 190, LEFT = 58, BOTTOM = 34, TOP = 10, RIGHT = 10;

function node(name, attributes, ...children) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

function short(value) {
  const size = Math.abs(value);
  if (size >= 1e6) return `${+(value / 1e6).toFixed(1)}M`;
  if (size >= 1e4) return `${+(value / 1e3).toFixed(0)}k`;
  return String(size >= 10 || Number.isInteger(value) ? Math.round(value) : +value.toPrecision(2));
}

function frame(title, xLabel, yLabel, low, high) {
  const chart = node("svg", { viewBox: `0 0 ${W} ${H}`, role: "img", "aria-label": title });
  const y = (v) => H - BOTTOM - ((v - low) / (high - low || 1)) * (H - BOTTOM - TOP);
  for (let step = 0; step <= 4; step++) {
    const value = low + ((high - low) * step) / 4;
    chart.append(
      node("line", { class: "axis", x1: LEFT, x2: W - RIGHT, y1: y(value), y2: y(value) }),
      node("text", { x: LEFT - 6, y: y(value) + 4, "text-anchor": "end" }, short(value)),
    );
  }
  chart.append(
    node("text", { x: (LEFT + W - RIGHT) / 2, y: H - 2, "text-anchor": "middle" }, xLabel),
    node("text", { x: 0, y: 0, transform: `translate(9 ${(H - BOTTOM) / 2 + TOP}) rotate(-90)`, "text-anchor": "middle" }, yLabel),
  );
  return { chart, y };
}

// series: [{name, points: [[x, y], ...]}], at most two
export function lines(title, xLabel, yLabel, series) {
  const points = series.flatMap((s) => s.points);
  const ys = points.map((p) => p[1]), xs = points.map((p) => p[0]);
  const [left, right] = [Math.min(...xs), Math.max(...xs)];
  const { chart, y } = frame(title, xLabel, yLabel, Math.min(...ys), Math.max(...ys));
  const x = (v) => LEFT + ((v - left) / (right - left || 1)) * (W - LEFT - RIGHT);
  series.forEach((one, place) => {
    const path = one.points.map(([a, b], n) => `${n ? "L" : "M"}${x(a).toFixed(1)} ${y(b).toFixed(1)}`).join("");
    chart.append(node("path", { class: "ab"[place], d: path }));
    const [lastX, lastY] = one.points.at(-1);
    if (series.length > 1) chart.append(node("text", { x: x(lastX), y: y(lastY) - 6, "text-anchor": "end" }, one.name));
  });
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
