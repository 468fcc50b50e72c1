// The connections that go on, and the button that cuts one.

import { lines, list, make, printable, row, set, show } from './dom.js';
import { bytes, count, duration, plural } from './format.js';

const columns = [
  { label: 'Client', head: true }, { label: 'Balancer' }, { label: 'Forward', kind: 'paired' }, { label: 'Backend', kind: 'paired' },
  { label: 'In', kind: 'number' }, { label: 'Out', kind: 'number' }, { label: 'Age', kind: 'number' }, { label: 'State', kind: 'short' }, { label: '', kind: 'tool' },
];

const body = document.getElementById('connections');
const matched = document.getElementById('matched');
const none = document.getElementById('no-connections');
const controls = document.getElementById('query');
const input = (name) => controls.querySelector(`[name=${name}]`);

// query is what is asked of /connections.json.
export function query() {
  const q = new URLSearchParams();
  for (const name of ['client', 'forward', 'sort', 'limit']) {
    const value = input(name).value.trim();
    if (value) q.set(name, value);
  }
  return q.toString();
}

// startConnections calls ask when something else is to be asked, and cut when a
// connection is to be cut.
export function startConnections({ ask, cut }) {
  let typing;
  controls.addEventListener('input', () => {
    clearTimeout(typing);
    typing = setTimeout(ask, 250);
  });
  confirmation(cut);
}

// showForwards offers the forwards to choose from.
export function showForwards(forwards) {
  const select = input('forward');
  const names = forwards.map((f) => f.name);
  if (names.length === select.options.length - 1 && names.every((n, i) => select.options[i + 1].value === n)) return;
  const chosen = select.value;
  select.replaceChildren(new Option('all', ''), ...names.map((n) => new Option(n, n)));
  select.value = names.includes(chosen) ? chosen : '';
}

// showConnections shows an answer of /connections.json.
export function showConnections(answer) {
  list(body, answer.connections, { key: (c) => c.id, create: createRow, update: updateRow });
  const shown = answer.connections.length;
  const some = shown < answer.matched ? `${count(shown)} of ${plural(answer.matched, 'connection')}` : plural(shown, 'connection');
  set(matched, some);
  const filtered = input('client').value.trim() !== '' || input('forward').value !== '';
  set(none, filtered ? 'No connection matches.' : 'There are no connections.');
  show(none, shown === 0);
  show(body.parentElement, shown > 0);
}

const latest = new WeakMap(); // what is known of a row's connection

function createRow() {
  const tr = row(columns);
  const button = make('button', 'small', 'Cut');
  button.type = 'button';
  button.addEventListener('click', () => ask(latest.get(tr)));
  tr.cells[8].append(button);
  return tr;
}

function updateRow(tr, c) {
  latest.set(tr, c);
  tr.querySelector('button').setAttribute('aria-label', `Cut the connection of ${c.client || 'nobody yet'}, ${c.id}`);
  lines(tr.cells[0], c.client || 'not known yet', c.authority ? printable(c.authority) : '', c.id);
  lines(tr.cells[1], c.peer, c.version ? `header version ${c.version}` : '');
  set(tr.cells[2], c.forward);
  lines(tr.cells[3], c.backend || 'none yet', c.transparent ? 'sees the client' : '');
  set(tr.cells[4], bytes(c.bytes_in));
  set(tr.cells[5], bytes(c.bytes_out));
  lines(tr.cells[6], duration(c.age_seconds), c.idle_seconds >= 5 ? `idle ${duration(c.idle_seconds)}` : '');
  set(tr.cells[7], c.state);
}

const dialog = document.getElementById('cut');
let asked = null;

// confirmation makes the dialog call cut when that is meant.
function confirmation(cut) {
  const [yes, no] = dialog.querySelectorAll('button');
  yes.addEventListener('click', () => {
    dialog.close();
    cut(asked);
  });
  no.addEventListener('click', () => dialog.close());
}

// ask asks whether a connection is to be cut.
function ask(c) {
  asked = c;
  const facts = [['Client', c.client || 'not known yet'], ['Balancer', c.peer], ['Backend', c.backend || 'none yet'], ['Id in the log', c.id]];
  dialog.querySelector('dl').replaceChildren(...facts.map(([name, value]) => make('div', '', make('dt', '', name), make('dd', '', value))));
  dialog.showModal();
}
