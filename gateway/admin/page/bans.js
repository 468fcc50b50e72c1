// The bans, a form that bans a client, and a button that ends a ban.

import { lines, list, make, row, set, show } from './dom.js';
import { ago, count, duration, plural } from './format.js';

const columns = [
  { label: 'Client', head: true, kind: 'brief' }, { label: 'Reason' }, { label: 'Since' },
  { label: 'Ends', kind: 'brief' }, { label: 'Refused', kind: 'number' }, { label: '', kind: 'tool' },
];
const bansShown = 200;

const body = document.getElementById('bans');
const form = document.getElementById('ban');
const input = (name) => form.querySelector(`[name=${name}]`);

let unban; // called with the prefix of a ban

// startBans calls ban with the query of POST /bans when the user submits the form, and
// unban with a prefix.
export function startBans(actions) {
  unban = actions.unban;
  const submit = () => {
    const q = new URLSearchParams({ prefix: input('prefix').value.trim() });
    for (const name of ['for', 'reason']) {
      const value = input(name).value.trim();
      if (value) q.set(name, value);
    }
    if (input('cut').checked) q.set('cut', '1');
    actions.ban(q, () => { input('prefix').value = ''; });
  };
  form.querySelector('button').addEventListener('click', submit);
  form.addEventListener('keydown', (event) => {
    if (event.key === 'Enter' && event.target.matches('input')) submit();
  });
}

// showBans shows an answer of /bans.json at a time of the gateway.
export function showBans(answer, now) {
  const bans = [...answer.bans].sort((a, b) => b.since.localeCompare(a.since));
  list(body, bans.slice(0, bansShown), {
    key: (b) => b.prefix,
    create: createRow,
    update: (tr, b) => updateRow(tr, b, now),
  });
  const total = plural(bans.length, 'ban');
  const saved = answer.file ? `kept in ${answer.file}` : 'until the gateway stops';
  const shown = bans.length > bansShown ? `the latest ${bansShown} of ${total}` : total;
  set(document.getElementById('ban-count'), `${shown}, ${saved}`);
  show(document.getElementById('no-bans'), bans.length === 0);
  show(body.parentElement, bans.length > 0);
}

function createRow(b) {
  const tr = row(columns, 'ban');
  const button = make('button', 'small', 'Unban');
  button.type = 'button';
  button.setAttribute('aria-label', `Unban ${text(b.prefix)}`);
  button.addEventListener('click', () => unban(b.prefix));
  tr.cells[5].append(button);
  return tr;
}

function updateRow(tr, b, now) {
  set(tr.cells[0].lastChild, text(b.prefix));
  set(tr.cells[1], b.reason || 'none given');
  set(tr.cells[2], ago(b.since, now));
  const left = b.until ? `in ${duration((new Date(b.until) - new Date(now)) / 1000)}` : 'when unbanned';
  set(tr.cells[3], left);
  lines(tr.cells[4], count(b.hits));
}

// text returns a prefix without the length of a single address.
function text(prefix) {
  return prefix.replace(prefix.includes(':') ? /\/128$/ : /\/32$/, '');
}
