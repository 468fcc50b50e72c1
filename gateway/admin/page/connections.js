// The table of open connections, and the button that cuts one.

import { lines, list, make, printable, row, set, show } from './dom.js';
import { bytes, count, duration, plural } from './format.js';

const columns = [
  { label: 'Client', head: true, kind: 'brief' }, { label: 'Peer' }, { label: 'Forward' }, { label: 'Backend' },
  { label: 'Traffic', kind: 'number' }, { label: 'Age', kind: 'number brief' }, { label: 'State', kind: 'short' },
  { label: '', kind: 'tool' },
];

const body = document.getElementById('connections');
const matched = document.getElementById('matched');
const none = document.getElementById('no-connections');
const controls = document.getElementById('query');
const input = (name) => controls.querySelector(`[name=${name}]`);

// query returns the query of /connections.json for the current filters.
export function query() {
  const q = new URLSearchParams();
  for (const name of ['client', 'forward', 'sort', 'limit']) {
    const value = input(name).value.trim();
    if (value) q.set(name, value);
  }
  return q.toString();
}

const typingPause = 250; // ms without input after which the query is sent

// startConnections calls refresh when the filters change, and cut when the user
// confirms that the user wants to cut a connection.
export function startConnections({ refresh, cut }) {
  let typing;
  controls.addEventListener('input', () => {
    clearTimeout(typing);
    typing = setTimeout(refresh, typingPause);
  });
  startDialog(cut);
}

// showForwardChoices updates the choices of the forward filter.
export function showForwardChoices(forwards) {
  const select = input('forward');
  const names = forwards.map((f) => f.name);
  const unchanged = names.length === select.options.length - 1 &&
    names.every((n, i) => select.options[i + 1].value === n);
  if (unchanged) return;
  const chosen = select.value;
  select.replaceChildren(new Option('all', ''), ...names.map((n) => new Option(n, n)));
  select.value = names.includes(chosen) ? chosen : '';
}

// showConnections shows an answer of /connections.json.
export function showConnections(answer) {
  list(body, answer.connections, { key: (c) => c.id, create: createRow, update: updateRow });
  const shown = answer.connections.length;
  const total = plural(answer.matched, 'connection');
  set(matched, shown < answer.matched ? `${count(shown)} of ${total}` : total);
  const filtered = input('client').value.trim() !== '' || input('forward').value !== '';
  set(none, filtered ? 'No matching connections.' : 'No open connections.');
  show(none, shown === 0);
  show(body.parentElement, shown > 0);
}

const latest = new WeakMap(); // from a row to its connection

function createRow() {
  const tr = row(columns, 'connection');
  const button = make('button', 'small', 'Cut');
  button.type = 'button';
  button.addEventListener('click', () => confirm(latest.get(tr)));
  tr.cells[7].append(button);
  return tr;
}

function updateRow(tr, c) {
  latest.set(tr, c);
  const label = `Cut connection ${c.id}, client ${c.client || 'not known yet'}`;
  tr.cells[7].firstChild.setAttribute('aria-label', label);
  lines(tr.cells[0].lastChild, c.client || 'not known yet', c.authority ? printable(c.authority) : '', c.id);
  lines(tr.cells[1], c.peer, c.version ? `header version ${c.version}` : '');
  set(tr.cells[2], c.forward);
  lines(tr.cells[3], c.backend || 'none yet', c.toa ? 'sees the client (TOA)' : c.transparent ? 'sees the client' : '');
  lines(tr.cells[4], `${bytes(c.bytes_in)} in`, `${bytes(c.bytes_out)} out`);
  lines(tr.cells[5], duration(c.age_seconds), c.idle_seconds >= 5 ? `idle ${duration(c.idle_seconds)}` : '');
  set(tr.cells[6], c.state);
}

const dialog = document.getElementById('cut');
let selected = null; // the connection in the dialog

// startDialog makes the dialog call cut when the user confirms.
function startDialog(cut) {
  const [yes, no] = dialog.querySelectorAll('button');
  yes.addEventListener('click', () => {
    dialog.close();
    cut(selected);
  });
  no.addEventListener('click', () => dialog.close());
}

// confirm asks the user whether to cut a connection.
function confirm(c) {
  selected = c;
  const facts = [
    ['Client', c.client || 'not known yet'], ['Peer', c.peer],
    ['Backend', c.backend || 'none yet'], ['ID in the log', c.id],
  ];
  const fact = ([name, value]) => make('div', '', make('dt', '', name), make('dd', '', value));
  dialog.querySelector('dl').replaceChildren(...facts.map(fact));
  dialog.showModal();
}
