// The plots of the last five minutes.

import { make, set, show } from './dom.js';
import { bytesPerSecond, clock, count, latency, perSecond } from './format.js';

const steps = 60; // of a full history; a shorter one begins further to the right
const width = 240; // in units of the viewBox
const height = 56;

// kinds describes the plots. least is the minimum of the vertical scale. past is the
// key of a series in the history and in the current rates; now overrides the latter.
const kinds = [
  { title: 'New connections', write: perSecond, least: 1, series: [
    { name: 'accepted', past: 'accepted_per_second' },
    { name: 'refused', past: 'refused_per_second' },
  ] },
  { title: 'Active connections', write: count, least: 4, series: [
    { name: 'active', past: 'active', now: (of) => of.active },
  ] },
  { title: 'Traffic', write: bytesPerSecond, least: 1000, series: [
    { name: 'in', past: 'bytes_in_per_second' },
    { name: 'out', past: 'bytes_out_per_second' },
  ] },
  { title: 'Time to header', write: latency, least: 0.0001, series: [
    { name: 'p50', past: 'header_p50_seconds' },
    { name: 'p99', past: 'header_p99_seconds' },
  ] },
  { title: 'Backend connect time', write: latency, least: 0.0001, series: [
    { name: 'p50', past: 'connect_p50_seconds' },
    { name: 'p99', past: 'connect_p99_seconds' },
  ] },
];

function svg(name, attributes) {
  const e = document.createElementNS('http://www.w3.org/2000/svg', name);
  for (const [k, v] of Object.entries(attributes)) e.setAttribute(k, v);
  return e;
}

// Plot is one plot.
class Plot {
  constructor(kind) {
    this.kind = kind;
    this.picture = svg('svg', { viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: 'none', role: 'img' });
    this.paths = kind.series.map((_, i) => svg('path', { class: `series series-${i}` }));
    this.area = svg('path', { class: 'area' });
    this.pointer = svg('path', { class: 'pointer' });
    const base = svg('path', { class: 'base', d: `M0 ${height - 1}H${width}` });
    const minutes = svg('path', { class: 'base' });
    minutes.setAttribute('d', [1, 2, 3, 4].map((i) => `M${(i / 5) * width} ${height - 5}V${height - 1}`).join(''));
    this.picture.append(base, minutes, this.area, ...this.paths, this.pointer);
    this.most = make('p', 'most');
    this.oldest = make('span');
    this.values = kind.series.map((s, i) => {
      const value = make('b');
      return { value, item: make('li', `key key-${i}`, make('span', '', s.name), value) };
    });
    this.element = make('figure', 'plot',
      make('figcaption', '', kind.title),
      make('ul', 'keys', ...this.values.map((v) => v.item)),
      make('div', 'canvas', this.picture, this.most),
      make('p', 'axis', this.oldest, make('span', '', 'now')));
    this.picture.addEventListener('pointermove', (e) => this.point(e));
    this.picture.addEventListener('pointerleave', () => { this.pointed = null; this.draw(); });
  }

  // update shows a status, or that of one forward, at a time.
  update(of, time) {
    const { title, write, series } = this.kind;
    this.time = new Date(time);
    this.interval = of.history.interval_seconds;
    set(this.oldest, `${count(this.interval * steps / 60)} min ago`);
    this.past = series.map((s) => of.history[s.past]);
    this.now = series.map((s) => (s.now ? s.now(of) : of.rates[s.past]));
    this.top = Math.max(this.kind.least, ...this.past.flat().map((v) => v ?? 0));
    const words = series.map((s, i) => `${s.name} ${write(this.now[i])}`).join(', ');
    const label = `${title}: ${words}; maximum in the last five minutes: ${write(this.top)}`;
    this.picture.setAttribute('aria-label', label);
    this.draw();
  }

  // draw draws the series and shows the values at the pointer, or the current ones.
  draw() {
    if (!this.past) return;
    this.past.forEach((list, i) => this.paths[i].setAttribute('d', this.line(list)));
    const drawn = this.kind.series.length === 1 ? this.line(this.past[0]) : '';
    const first = this.x(0, this.past[0].length);
    this.area.setAttribute('d', drawn ? `${drawn}V${height}H${first}Z` : '');
    const at = this.pointed ?? null;
    const length = this.past[0].length;
    this.pointer.setAttribute('d', at === null || at >= length ? '' : `M${this.x(at, length)} 0V${height}`);
    this.values.forEach((v, i) => set(v.value, this.kind.write(at === null ? this.now[i] : this.past[i][at] ?? null)));
    const then = at === null ? null : new Date(this.time - (length - 1 - at) * this.interval * 1000);
    set(this.most, then ? clock(then) : this.kind.write(this.top));
  }

  // line returns the path of a list. It has a gap where there is no value.
  line(list) {
    let d = '';
    let down = false;
    list.forEach((v, i) => {
      if (v === null) {
        down = false;
        return;
      }
      const y = (height - 2) - (v / this.top) * (height - 6);
      d += `${down ? 'L' : 'M'}${this.x(i, list.length).toFixed(1)} ${y.toFixed(1)}`;
      if (!down) d += 'h0';
      down = true;
    });
    return d;
  }

  x(i, length) {
    return ((steps - length + i) / (steps - 1)) * width;
  }

  // point shows the values at the pointer.
  point(event) {
    if (!this.past || this.past[0].length === 0) return;
    const box = this.picture.getBoundingClientRect();
    const length = this.past[0].length;
    const step = Math.round(((event.clientX - box.left) / box.width) * (steps - 1)) - (steps - length);
    this.pointed = Math.min(length - 1, Math.max(0, step));
    this.draw();
  }
}

const plots = kinds.map((kind) => new Plot(kind));
const choice = document.querySelector('#plotted select');
let latest = null;

// startPlots adds the plots to the page.
export function startPlots() {
  document.getElementById('plots').append(...plots.map((p) => p.element));
  choice.addEventListener('change', () => latest && showPlots(latest));
}

// showPlots shows a status in the plots: all forwards, or the selected one.
export function showPlots(status) {
  latest = status;
  const names = ['', ...status.forwards.map((f) => f.name)];
  if (names.length !== choice.options.length || names.some((n, i) => choice.options[i].value !== n)) {
    const chosen = choice.value;
    choice.replaceChildren(...names.map((n) => new Option(n || 'all forwards', n)));
    choice.value = names.includes(chosen) ? chosen : '';
  }
  show(choice.parentElement, status.forwards.length > 1);
  const of = status.forwards.find((f) => f.name === choice.value) ?? status;
  for (const p of plots) p.update(of, status.time);
}
