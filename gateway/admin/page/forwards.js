// The table of forwards. Each is one line; its button shows the details.

import { fold, lines, list, make, row, set, show } from './dom.js';
import { bytes, bytesPerSecond, count, duration, perSecond, plural } from './format.js';

const columns = [
  { label: 'Listens on', head: true, kind: 'brief' }, { label: 'Backends' }, { label: 'Backend sees', kind: 'short' },
  { label: 'Active', kind: 'number brief', unit: 'active' }, { label: 'New', kind: 'number' },
  { label: 'Traffic in', kind: 'number' }, { label: 'Traffic out', kind: 'number' },
  { label: 'Refused', kind: 'number' },
];
const controlsFrom = 4; // forwards from which on there are a filter and an order
const table = document.getElementById('forwards');
const controls = document.getElementById('forward-controls');
const none = document.getElementById('no-forwards');
const input = (name) => controls.querySelector(`[name=${name}]`);

let latest = null;

// startForwards shows the forwards again when the filter or the order changes.
export function startForwards() {
  controls.addEventListener('input', () => latest && showForwards(latest));
}

// orders are the values by which forwards are sorted, the largest first.
const orders = {
  problems: (f) => (f.ready ? 0 : 4) + (f.reasons ? 2 : 0) + (f.backends_down > 0 ? 1 : 0),
  active: (f) => f.active,
  traffic: (f) => f.rates.bytes_in_per_second + f.rates.bytes_out_per_second,
  refused: (f) => f.refused,
  configured: () => 0,
};

// matches reports whether a forward has the text in the name of a listener or a backend.
function matches(f, text) {
  const names = [
    f.name, ...f.listeners.flatMap((l) => [l.name, l.address, l.leads_to]), ...f.backends.map((b) => b.backend),
  ];
  return names.some((n) => n.toLowerCase().includes(text.toLowerCase()));
}

// showForwards shows the forwards of a status.
export function showForwards(status) {
  latest = status;
  const all = status.forwards.map((f, i) => ({ ...f, i, time: status.time }));
  show(controls, all.length >= controlsFrom);
  const text = input('forward-filter').value.trim();
  const order = orders[input('forward-sort').value];
  const shown = all.filter((f) => matches(f, text)).sort((a, b) => order(b) - order(a) || a.i - b.i);
  list(table, shown, { lead: 1, key: (f) => f.i, create, update });
  show(table, shown.length > 0);
  set(none, all.length === 0 ? 'The listeners are not open yet.' : 'No matching forwards.');
  show(none, shown.length === 0);
  const total = plural(all.length, 'forward');
  set(document.getElementById('forward-count'), shown.length < all.length ? `${shown.length} of ${total}` : total);
}

// create returns the row of a forward and that of its details.
function create() {
  const body = make('tbody');
  body.setAttribute('role', 'rowgroup');
  const tr = row(columns, 'forward');
  tr.cells[0].firstChild.replaceWith(fold(body, 'forward'));
  tr.cells[0].append(make('span', 'pill'));
  const cell = make('td', '', make('dl', 'facts'));
  cell.setAttribute('role', 'cell');
  cell.colSpan = columns.length;
  const details = make('tr', 'details', cell);
  details.setAttribute('role', 'row');
  body.append(tr, details);
  return body;
}

// state returns the word for a forward's problems, and its kind.
function state(f) {
  if (!f.ready) return ['not ready', 'fail'];
  if (f.reasons) return ['degraded', 'warn'];
  if (f.backends_down > 0) return [`${count(f.backends_down)} down`, 'warn'];
  return ['', ''];
}

// backends returns what the listeners lead to, each once.
function backends(f) {
  return [...new Set(f.listeners.map((l) => l.leads_to))];
}

const downShown = 3;

function update(body, f) {
  const { cells } = body.rows[0];
  set(cells[0].children[1], f.name);
  const [word, kind] = state(f);
  cells[0].lastChild.className = `pill ${kind}`;
  set(cells[0].lastChild, word);
  show(cells[0].lastChild, word !== '');
  const [first = 'none', ...others] = backends(f);
  const down = f.backends.filter((b) => !b.up);
  lines(cells[1], others.length > 0 ? `${first} and ${count(f.listener_count - 1)} more` : first,
    ...down.slice(0, downShown).map((b) => `down, tried last: ${b.backend}`),
    f.backends_down > downShown ? `${count(f.backends_down)} down in total` : '');
  set(cells[2], f.toa ? 'the client (TOA)' : f.transparent ? 'the client' : 'the gateway');
  set(cells[3], count(f.active));
  set(cells[4], perSecond(f.rates.accepted_per_second));
  set(cells[5], bytesPerSecond(f.rates.bytes_in_per_second));
  set(cells[6], bytesPerSecond(f.rates.bytes_out_per_second));
  const refused = f.rates.refused_per_second;
  lines(cells[7], count(f.refused), refused > 0 ? perSecond(refused) : '');
  updateDetails(body.rows[1].querySelector('dl'), f);
}

// counters formats counts by outcome, the largest first.
function counters(by) {
  return Object.entries(by).sort((a, b) => b[1] - a[1]).map(([outcome, n]) => `${outcome} ${count(n)}`).join(', ');
}

// backendState describes a backend.
function backendState(b, time) {
  const since = b.since ? ` for ${duration((new Date(time) - new Date(b.since)) / 1000)}` : '';
  const reason = b.last_error ? `: ${b.last_error}` : '';
  return b.up ? `${b.backend}: up${since}` : `${b.backend}: down${since}, tried last${reason}`;
}

// updateDetails shows what is not in the row.
function updateDetails(dl, f) {
  const rest = f.listener_count - f.listeners.length;
  const others = f.source_port_fallbacks;
  const facts = [
    ...(f.reasons ?? []).map((r) => [r.reason, [r.detail ?? '']]),
    ['Listeners', f.listeners.map((l) => `${l.address} to ${l.leads_to}`)],
    ['More', [rest > 0 ? plural(rest, 'more listener') : '']],
    ['Backends', f.backends.map((b) => backendState(b, f.time))],
    ['Connections', [`${count(f.accepted)} since the start, ${bytes(f.bytes_in)} in, ${bytes(f.bytes_out)} out`]],
    ['Closed', [counters(f.closed) || 'none']],
    ['LOCAL', [counters(f.local)]], // health checks
    ['Other port', [others > 0 ? `${count(others)} not from the client's own port` : '']],
  ].map(([name, texts]) => ({ name, texts: texts.filter((t) => t) })).filter((fact) => fact.texts.length > 0);
  list(dl, facts, {
    key: (fact) => fact.name,
    create: () => make('div', '', make('dt'), make('dd')),
    update: (div, fact) => {
      set(div.firstChild, fact.name);
      list(div.lastChild, fact.texts.map((text, i) => ({ text, i })), {
        key: (t) => t.i, create: () => make('div'), update: (e, t) => set(e, t.text),
      });
    },
  });
}
