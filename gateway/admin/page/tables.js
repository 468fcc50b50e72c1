// The tables of forwards, refusals and trust rules.

import { lines, list, make, row, set, show } from './dom.js';
import { ago, bytes, bytesPerSecond, count, perSecond, plural } from './format.js';

const forwardColumns = [
  { label: 'Listens on', head: true }, { label: 'Backends', kind: 'paired' },
  { label: 'Backend sees', kind: 'paired' }, { label: 'Active', kind: 'number' }, { label: 'New', kind: 'number' },
  { label: 'In', kind: 'number' }, { label: 'Out', kind: 'number' }, { label: 'Closed since start' },
];

// showForwardTable shows the forwards.
export function showForwardTable(forwards) {
  list(document.getElementById('forwards'), forwards.map((f, i) => ({ ...f, i })), {
    key: (f) => f.i,
    create: () => row(forwardColumns),
    update: updateForward,
  });
}

const listenersShown = 3;

function updateForward(tr, f) {
  const listeners = f.listeners ?? [];
  const bound = listeners.slice(0, listenersShown).filter((l) => l.address !== f.name).map((l) => l.address);
  const more = f.listener_count > listenersShown ? [`${plural(f.listener_count, 'listener')} in total`] : [];
  const degraded = f.reasons ? 'degraded' : '';
  lines(tr.cells[0], f.name, f.ready ? degraded : 'not ready', ...bound, ...more);
  const down = (f.backends ?? []).filter((b) => !b.up).slice(0, listenersShown);
  lines(tr.cells[1], ...[...new Set(listeners.map((l) => l.leads_to))].slice(0, listenersShown + 1),
    ...down.map((b) => `down: ${b.backend}${b.last_error ? `, ${b.last_error}` : ''}`),
    f.backends_down > down.length ? `${count(f.backends_down)} down in total` : '');
  set(tr.cells[2], f.toa ? 'the client (TOA)' : f.transparent ? 'the client' : 'the gateway');
  set(tr.cells[3], count(f.active));
  const refused = f.rates.refused_per_second;
  lines(tr.cells[4], perSecond(f.rates.accepted_per_second), refused > 0 ? `${perSecond(refused)} refused` : '');
  lines(tr.cells[5], bytesPerSecond(f.rates.bytes_in_per_second), bytes(f.bytes_in));
  lines(tr.cells[6], bytesPerSecond(f.rates.bytes_out_per_second), bytes(f.bytes_out));
  const closed = Object.entries(f.closed).sort((a, b) => b[1] - a[1]);
  const local = Object.values(f.local).reduce((sum, n) => sum + n, 0);
  lines(tr.cells[7], closed.map(([outcome, n]) => `${outcome} ${count(n)}`).join(', ') || 'none',
    local > 0 ? `of these ${count(local)} LOCAL, such as health checks` : '');
}

const refusalColumns = [
  { label: 'Reason', head: true }, { label: 'What to do' }, { label: 'Forward', kind: 'paired' },
  { label: 'Count', kind: 'number' }, { label: 'Last', kind: 'number' },
];

// showRefusals shows the recent refusals: a group of rows for each peer, the latest
// first.
export function showRefusals(status) {
  const peers = new Map();
  for (const r of status.refusals) {
    if (!peers.has(r.peer)) peers.set(r.peer, { peer: r.peer, refusals: [] });
    peers.get(r.peer).refusals.push(r);
  }
  const table = document.getElementById('refusals');
  list(table, [...peers.values()], {
    lead: 1, // the table head
    key: (p) => p.peer,
    create: createPeer,
    update: (body, p) => updatePeer(body, p, status.time),
  });
  show(table, peers.size > 0);
  show(document.getElementById('no-refusals'), peers.size === 0);
  const missed = status.missed_refusals;
  set(document.getElementById('missed'), missed > 0 ? `${count(missed)} more at the same time, not listed` : '');
}

function createPeer() {
  const head = make('th', 'peer');
  head.setAttribute('role', 'rowheader');
  head.scope = 'rowgroup';
  head.colSpan = refusalColumns.length;
  const tr = make('tr', 'group', head);
  tr.setAttribute('role', 'row');
  const body = make('tbody', '', tr);
  body.setAttribute('role', 'rowgroup');
  return body;
}

function updatePeer(body, { peer, refusals }, time) {
  const total = refusals.reduce((sum, r) => sum + r.count, 0);
  const name = peer === 'unix' ? 'Peer on a unix socket' : `Peer ${peer}`;
  lines(body.rows[0].cells[0], name, plural(total, 'refusal'));
  list(body, refusals, {
    lead: 1,
    key: (r) => `${r.outcome} ${r.forward} ${r.reason ?? ''}`,
    create: () => row(refusalColumns),
    update: (tr, r) => updateRefusal(tr, r, time),
  });
}

function updateRefusal(tr, r, time) {
  const client = r.client ? `client ${r.client}` : '';
  const sample = r.sample ? `received ${r.sample}` : '';
  lines(tr.cells[0], `${r.outcome}: ${r.meaning}`, r.reason, client, sample);
  lines(tr.cells[1], r.remedy, r.action);
  set(tr.cells[2], r.forward);
  set(tr.cells[3], count(r.count));
  set(tr.cells[4], ago(r.last, time));
}

const trustColumns = [
  { label: 'Rule', head: true }, { label: 'Prefix', kind: 'paired' },
  { label: 'Source', kind: 'short' }, { label: 'Connections', kind: 'number' },
];
const rulesShown = 200;

// showTrust shows the lists of trusted peers with their rules.
export function showTrust(trust) {
  list(document.getElementById('trust'), trust.map((t, i) => ({ ...t, i })), {
    key: (t) => t.i,
    create: createTrust,
    update: (div, t) => updateTrust(div, t, trust.length > 1),
  });
}

function createTrust(t) {
  const title = make('p', 'muted');
  title.id = `trust-${t.i}`;
  const head = make('tr', '', ...trustColumns.map((c) => make('th', c.kind, c.label)));
  head.setAttribute('role', 'row');
  for (const th of head.cells) {
    th.scope = 'col';
    th.setAttribute('role', 'columnheader');
  }
  const table = make('table', '', make('thead', '', head), make('tbody'));
  table.setAttribute('role', 'table');
  table.setAttribute('aria-labelledby', `trust-title ${title.id}`);
  for (const group of table.children) group.setAttribute('role', 'rowgroup');
  return make('div', '', title, table, make('p', 'none'));
}

function updateTrust(div, t, several) {
  const rules = byRule(t.rules);
  const [title, table, more] = div.children;
  set(title, several ? `For ${t.forwards.join(', ')}` : '');
  list(table.tBodies[0], rules.slice(0, rulesShown), {
    key: (r) => r.key,
    create: () => row(trustColumns),
    update: updateRule,
  });
  show(table, rules.length > 0);
  set(more, rules.length === 0 ? 'No rules.' : `and ${count(rules.length - rulesShown)} more rules, see status.json`);
  show(more, rules.length === 0 || rules.length > rulesShown);
}

// byRule merges the prefixes of each rule: a preset, or a name, may have several.
function byRule(rules) {
  const all = new Map();
  for (const r of rules) {
    const key = `${r.rule} ${r.origin}`;
    const one = all.get(key) ?? { key, rule: r.rule, origin: r.origin, note: r.note, prefixes: [], hits: 0 };
    one.prefixes.push(r.prefix);
    one.hits += r.hits;
    all.set(key, one);
  }
  return [...all.values()].sort((a, b) => b.hits - a.hits);
}

function updateRule(tr, r) {
  lines(tr.cells[0], r.rule, r.note);
  set(tr.cells[1], r.prefixes.length === 1 ? r.prefixes[0] : plural(r.prefixes.length, 'prefix', 'prefixes'));
  set(tr.cells[2], r.origin);
  lines(tr.cells[3], count(r.hits), r.hits === 0 ? 'unused since the start' : '');
}
