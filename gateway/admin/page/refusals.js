// The recent refusals, grouped by outcome and reason.

import { chips, commands, list, make, set, show, showCommands } from './dom.js';
import { ago, count, plural } from './format.js';

// grouped returns the outcomes of refusals, the most frequent first, so that the order
// rarely changes, each with its reasons.
function grouped(refusals) {
  const outcomes = new Map();
  for (const r of refusals) { // the latest first
    if (!outcomes.has(r.outcome)) {
      outcomes.set(r.outcome, { ...r, count: 0, actions: new Set(), reasons: new Map() });
    }
    const o = outcomes.get(r.outcome);
    o.count += r.count;
    for (const command of (r.action ?? '').split('; ')) if (command) o.actions.add(command);
    const text = r.reason ?? '';
    if (!o.reasons.has(text)) {
      o.reasons.set(text, { text, client: r.client, sample: r.sample, peers: new Map(), clients: new Map(),
        forwards: new Map() });
    }
    const reason = o.reasons.get(text);
    if (r.by_client) add(reason.clients, address(r.client), r.count);
    else add(reason.peers, r.peer === 'unix' ? 'a unix socket' : r.peer, r.count);
    add(reason.forwards, r.forward, r.count);
  }
  return [...outcomes.values()].sort((a, b) => b.count - a.count);
}

// address returns the address of a client without its port and brackets.
function address(client) {
  return client.replace(/:\d+$/, '').replace(/^\[|\]$/g, '');
}

// add adds n to a counter.
function add(counters, key, n) {
  counters.set(key, (counters.get(key) ?? 0) + n);
}

// showRefusals shows the recent refusals.
export function showRefusals(status) {
  const outcomes = grouped(status.refusals);
  const ul = document.getElementById('refusals');
  list(ul, outcomes, { key: (o) => o.outcome, create, update: (li, o) => update(li, o, status.time) });
  show(ul, outcomes.length > 0);
  show(document.getElementById('no-refusals'), outcomes.length === 0);
  const missed = status.missed_refusals;
  set(document.getElementById('missed'), missed > 0 ? `${count(missed)} more at the same time, not listed` : '');
}

function create() {
  const more = make('details', '', make('summary'), make('ul', 'causes'));
  return make('li', '',
    make('p', 'headline', make('b', 'outcome'), ' ', make('span', 'meaning'), make('span', 'muted when')),
    make('p', 'remedy'), commands(), make('ul', 'causes'), more);
}

const reasonsShown = 2;

function update(li, o, time) {
  set(li.querySelector('.outcome'), o.outcome);
  set(li.querySelector('.meaning'), o.meaning);
  set(li.querySelector('.when'), `${plural(o.count, 'connection')}, last ${ago(o.last, time)}`);
  set(li.querySelector('.remedy'), `What to do: ${o.remedy}`);
  showCommands(li.querySelector('.action'), [...o.actions]);
  const reasons = [...o.reasons.values()];
  const [shown, more] = li.querySelectorAll('.causes');
  showReasons(shown, reasons.slice(0, reasonsShown));
  showReasons(more, reasons.slice(reasonsShown));
  show(more.parentElement, reasons.length > reasonsShown);
  set(li.querySelector('summary'), plural(reasons.length - reasonsShown, 'more reason'));
}

function showReasons(ul, reasons) {
  list(ul, reasons, {
    key: (r) => r.text,
    create: () => make('li', '', make('p', 'reason'), make('p', 'muted last'),
      make('p', 'chips peers', make('span', 'muted', 'peers')),
      make('p', 'chips clients', make('span', 'muted', 'clients')), make('p', 'chips', make('span', 'muted', 'forwards'))),
    update: updateReason,
  });
}

function updateReason(li, r) {
  const [reason, last, peers, clients, forwards] = li.children;
  set(reason, r.text);
  show(reason, r.text !== '');
  const facts = [r.client ? `client ${r.client}` : '', r.sample ? `received ${r.sample}` : ''].filter((t) => t);
  set(last, facts.length > 0 ? `Last one: ${facts.join(', ')}` : '');
  show(last, facts.length > 0);
  chips(peers, items(r.peers), 1);
  show(peers, r.peers.size > 0);
  chips(clients, items(r.clients), 1);
  show(clients, r.clients.size > 0);
  chips(forwards, items(r.forwards), 1);
}

// items returns the counters as chips.
function items(counters) {
  return [...counters].map(([text, n]) => ({ text, n }));
}
