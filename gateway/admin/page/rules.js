// The lists of rules: about trusted peers, and about clients.

import { lines, list, make, row, set, show } from './dom.js';
import { count, plural } from './format.js';

const columns = [
  { label: 'Rule', head: true, kind: 'brief' }, { label: 'Prefix' },
  { label: 'Source', kind: 'short' }, { label: 'Connections', kind: 'number brief', unit: 'connections' },
];
const rulesShown = 200;

// showTrust shows the lists of trusted peers with their rules.
export function showTrust(trust) {
  showLists('trust', trust, {
    title: (t) => (trust.length > 1 ? `For ${t.forwards.join(', ')}` : ''),
    none: 'No rules.',
    hidden: (t, shown) => t.rules.length - shown,
  });
}

// showClients shows the lists of rules about clients with those that have matched.
export function showClients(clients) {
  show(document.getElementById('clients').parentElement, clients.length > 0);
  showLists('clients', clients, {
    title: (c) => `${c.action === 'deny' ? 'Denied' : 'Allowed'}, for ${c.forwards.join(', ')}: ` +
      `${plural(c.count, 'prefix', 'prefixes')}, ${plural(c.hits, 'connection')}`,
    none: 'No rule has matched since the list was read.',
    hidden: (c, shown) => c.count - shown,
  });
}

// showLists shows lists of rules in an element. title is the heading of a list, none the
// text for one without rules, and hidden the number of rules beyond those shown.
function showLists(id, lists, { title, none, hidden }) {
  list(document.getElementById(id), lists.map((l, i) => ({ ...l, i })), {
    key: (l) => l.i,
    create: (l) => createList(id, l),
    update: (div, l) => updateList(div, l, { title, none, hidden }),
  });
}

function createList(id, l) {
  const title = make('p', 'muted');
  title.id = `${id}-${l.i}`;
  const head = make('tr', '', ...columns.map((c) => make('th', c.kind, c.label)));
  head.setAttribute('role', 'row');
  for (const th of head.cells) {
    th.scope = 'col';
    th.setAttribute('role', 'columnheader');
  }
  const table = make('table', '', make('thead', '', head), make('tbody'));
  table.setAttribute('role', 'table');
  table.setAttribute('aria-labelledby', `${id}-title ${title.id}`);
  for (const group of table.children) group.setAttribute('role', 'rowgroup');
  return make('div', '', title, table, make('p', 'none'));
}

function updateList(div, l, { title: titleOf, none, hidden }) {
  const rules = byRule(l.rules);
  const shown = rules.slice(0, rulesShown);
  const [title, table, more] = div.children;
  set(title, titleOf(l));
  list(table.tBodies[0], shown, {
    key: (r) => r.key,
    create: () => row(columns, 'rule'),
    update: updateRule,
  });
  const left = hidden(l, shown.reduce((n, r) => n + r.prefixes.length, 0));
  show(table, rules.length > 0);
  set(more, rules.length === 0 ? none : `and ${plural(left, 'more prefix', 'more prefixes')}`);
  show(more, rules.length === 0 || left > 0);
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
