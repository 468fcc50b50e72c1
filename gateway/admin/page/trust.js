// The lists of trusted peers.

import { lines, list, make, row, set, show } from './dom.js';
import { count, plural } from './format.js';

const columns = [
  { label: 'Rule', head: true, kind: 'brief' }, { label: 'Prefix' },
  { label: 'Source', kind: 'short' }, { label: 'Connections', kind: 'number brief', unit: 'connections' },
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
  const head = make('tr', '', ...columns.map((c) => make('th', c.kind, c.label)));
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
    create: () => row(columns, 'rule'),
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
  lines(tr.cells[0].lastChild, r.rule, r.note);
  set(tr.cells[1], r.prefixes.length === 1 ? r.prefixes[0] : plural(r.prefixes.length, 'prefix', 'prefixes'));
  set(tr.cells[2], r.origin);
  lines(tr.cells[3], count(r.hits), r.hits === 0 ? 'unused since the start' : '');
}
