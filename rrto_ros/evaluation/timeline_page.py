"""The page of the interactive timeline: `{{title}}` and `{{data}}` are filled in."""

from __future__ import annotations

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{{title}}</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>
:root { color-scheme: light dark; }
body { font: 14px system-ui, sans-serif; margin: 1rem; }
h1 { font-size: 1.1rem; margin: 0 0 .5rem; }
canvas { width: 100%; display: block; cursor: grab; border: 1px solid #8888; }
#keys { display: flex; flex-wrap: wrap; gap: .3rem 1.2rem; margin: .6rem 0; }
#keys label { display: flex; align-items: center; gap: .4rem; }
#keys i { width: .9rem; height: .9rem; border-radius: 2px; display: inline-block; }
#note { min-height: 1.4em; font-family: ui-monospace, monospace; }
</style></head><body>
<h1>{{title}}</h1>
<canvas id="view" tabindex="0" aria-label="driver calls in order, coloured by sequence"></canvas>
<p id="note">Wheel: zoom. Drag: move. Double click: all. Point at a call for its name.</p>
<div id="keys"></div>
<script>
"use strict";
const D = {{data}};
const view = document.getElementById("view"), note = document.getElementById("note");
const pen = view.getContext("2d");
const colours = new Map(D.legend.map(([c, , n]) => [n, c]));
const hidden = new Set();
const ROW = 34, AXIS = 22;
let lo = 0, hi = Math.max(1, D.calls);

for (const [c, text, n] of D.legend) {
  const label = document.createElement("label"), box = document.createElement("input");
  const swatch = document.createElement("i");
  box.type = "checkbox"; box.checked = true; swatch.style.background = c;
  box.onchange = () => { box.checked ? hidden.delete(n) : hidden.add(n); draw(); };
  label.append(box, swatch, text);
  document.getElementById("keys").append(label);
}

function firstRun(place) {
  let a = 0, b = D.runs.length;
  while (a < b) {
    const m = (a + b) >> 1;
    if (D.runs[m][1] + D.runs[m][2] <= place) a = m + 1; else b = m;
  }
  return a;
}

function draw() {
  const scale = devicePixelRatio || 1, w = view.clientWidth;
  const h = ROW * Math.max(1, D.threads.length) + AXIS;
  view.width = w * scale; view.height = h * scale; view.style.height = h + "px";
  pen.setTransform(scale, 0, 0, scale, 0, 0);
  pen.clearRect(0, 0, w, h);
  const x = p => (p - lo) / (hi - lo) * w;
  for (let i = firstRun(lo); i < D.runs.length && D.runs[i][1] < hi; i++) {
    const [row, start, calls, label] = D.runs[i];
    if (hidden.has(label)) continue;
    const a = x(start), b = x(start + calls), gap = b - a > 4 ? 1 : 0;
    pen.fillStyle = colours.get(label) || "#888";
    pen.fillRect(a, row * ROW + 3, Math.max(b - a - gap, .5), ROW - 6);
  }
  pen.fillStyle = getComputedStyle(document.body).color;
  pen.font = "11px system-ui"; pen.textBaseline = "top";
  const step = 10 ** Math.max(0, Math.floor(Math.log10((hi - lo) / 4)));
  for (let p = Math.ceil((lo + D.first) / step) * step; p < hi + D.first; p += step) {
    const at = x(p - D.first);
    pen.fillRect(at, h - AXIS, 1, 4); pen.fillText(String(p), at + 3, h - AXIS + 4);
  }
  D.threads.forEach((t, r) => pen.fillText("thread " + t, 4, r * ROW + 4));
}

function clamp() {
  const span = Math.min(Math.max(hi - lo, 8), Math.max(8, D.calls));
  lo = Math.max(0, Math.min(lo, D.calls - span)); hi = lo + span;
}

function describe(event) {
  const place = Math.floor(lo + event.offsetX / view.clientWidth * (hi - lo));
  const run = D.runs[firstRun(place)];
  if (!run || place < run[1]) return;
  const [row, start, , label, times] = run;
  let text = "call " + (place + D.first) + ", thread " + D.threads[row] + ": ";
  if (label < 0) {
    text += (D.noise[place] === undefined ? "noise" : D.ops[D.noise[place]] + " (noise)");
  } else {
    const items = D.sequences[label], at = place - start;
    if (times === 1 && at < items.length) {
      text += D.ops[items[at]] + " (call " + at + " of sequence " + label + ")";
    } else {
      text += "sequence " + label + (times > 1 ? ", " + times + " times here" : "");
    }
  }
  note.textContent = text;
}

view.addEventListener("wheel", e => {
  e.preventDefault();
  const at = lo + e.offsetX / view.clientWidth * (hi - lo), f = Math.exp(e.deltaY * .0015);
  lo = at - (at - lo) * f; hi = at + (hi - at) * f; clamp(); draw();
}, { passive: false });
view.addEventListener("pointerdown", e => view.setPointerCapture(e.pointerId));
view.addEventListener("pointermove", e => {
  if (e.buttons) {
    const d = e.movementX / view.clientWidth * (hi - lo);
    lo -= d; hi -= d; clamp(); draw();
  }
  describe(e);
});
view.addEventListener("dblclick", () => { lo = 0; hi = Math.max(1, D.calls); draw(); });
view.addEventListener("keydown", e => {
  const span = hi - lo, move = { ArrowLeft: -.2, ArrowRight: .2 }[e.key];
  if (move) { lo += move * span; hi += move * span; }
  else if (e.key === "+") { lo += span / 4; hi -= span / 4; }
  else if (e.key === "-") { lo -= span / 2; hi += span / 2; }
  else return;
  clamp(); draw();
});
addEventListener("resize", draw);
draw();
</script></body></html>
"""
