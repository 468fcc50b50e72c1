// The status page: it asks the gateway every few seconds and shows the answer.

import { list, make, set, show } from './dom.js';
import { clock, count, duration, plural } from './format.js';
import { query, showConnections, showForwards, startConnections } from './connections.js';
import { showHost } from './host.js';
import { showPlots, startPlots } from './plots.js';
import { showForwardTable, showRefusals, showTrust } from './tables.js';

const usual = 2000; // ms between two questions
const longest = 30000; // while there is no answer
const patience = 8000; // for one answer

const state = document.getElementById('state');
const trouble = document.getElementById('trouble');
const said = document.getElementById('said');

let timer;
let asking = false;
let failures = 0;
let lastAnswer = null; // when there was one, a Date
let started = null; // when the gateway that answers was

// request asks the gateway, and returns its answer; what it says went wrong is
// an error.
async function request(path, options = {}) {
  const response = await fetch(path, { cache: 'no-store', signal: AbortSignal.timeout(patience), ...options });
  const answer = response.status === 204 ? null : await response.json();
  if (!response.ok) throw new Error(answer?.error ?? `${path}: ${response.status}`);
  return answer;
}

// poll asks once and sees to it that it is asked again. Nobody looks at a page
// that is hidden: it asks again when it is seen.
async function poll() {
  clearTimeout(timer);
  if (asking || document.hidden) return;
  asking = true;
  const asked = query();
  try {
    const [status, connections] = await Promise.all([request('status.json'), request(`connections.json?${asked}`)]);
    answered(status);
    showConnections(connections);
  } catch (err) {
    failed(err);
  }
  asking = false;
  const again = asked === query() ? Math.min(usual * 2 ** failures, longest) : 0;
  timer = setTimeout(poll, again);
}

// answered shows a status.
function answered(status) {
  if (started !== null && started !== status.started) say('The gateway was started anew.');
  started = status.started;
  failures = 0;
  lastAnswer = new Date();
  show(trouble, false);
  showState(status);
  showFacts(status);
  showPlots(status);
  showForwardTable(status.forwards);
  showForwards(status.forwards);
  showRefusals(status);
  showTrust(status.trust);
  showHost(status);
}

// failed says that there was no answer. What was known stays on the page.
function failed(err) {
  failures++;
  const wait = Math.min(usual * 2 ** failures, longest) / 1000;
  const since = lastAnswer ? `since ${clock(lastAnswer)}; what is below is as it was then` : 'so far';
  set(trouble.querySelector('p'), `The gateway is not reachable ${since}. (${err.message})`);
  set(trouble.querySelector('button'), `Try now, else in ${wait} s`);
  show(trouble, true);
  setState('not reachable', 'fail');
}

function setState(word, kind) {
  state.className = `pill ${kind}`;
  set(state, word);
  document.title = `${word} · unproxy`;
}

// showState says whether new connections are welcome, and if not, why.
function showState(status) {
  const draining = (status.reasons ?? []).some((r) => r.reason === 'draining');
  if (status.ready) setState('ready', 'ok');
  else setState(draining ? 'draining' : 'not ready', draining ? 'warn' : 'fail');
  const reasons = document.getElementById('reasons');
  show(reasons, !status.ready);
  list(reasons.querySelector('ul'), status.reasons ?? [], {
    key: (r) => r.reason,
    create: () => make('li', '', make('b'), ' ', make('span')),
    update: (li, r) => {
      set(li.querySelector('b'), r.reason);
      set(li.querySelector('span'), r.detail ?? '');
    },
  });
}

function showFacts(status) {
  const connections = status.limit > 0 ? `${count(status.active)} of at most ${plural(status.limit, 'connection')}` : plural(status.active, 'connection');
  const facts = [
    status.version.version,
    `up ${duration(status.uptime_seconds)}`,
    connections,
    `on ${plural(status.loops.length, 'loop')}: ${status.loops.map(count).join(', ')}`,
    `pid ${status.pid}`,
  ];
  if (status.log_lines_dropped > 0) facts.push(`${plural(status.log_lines_dropped, 'line')} of the log lost`);
  list(document.getElementById('facts'), facts.map((text, i) => ({ text, i })), {
    key: (f) => f.i,
    create: () => make('li'),
    update: (li, f) => set(li, f.text),
  });
}

let saying;

// say tells of something that was done.
function say(text) {
  set(said, text);
  clearTimeout(saying);
  saying = setTimeout(() => set(said, ''), 10000);
}

// cut resets a connection, which somebody has confirmed.
async function cut(connection) {
  try {
    await request(`connections/${encodeURIComponent(connection.id)}`, { method: 'DELETE' });
    say(`Cut the connection ${connection.id} of ${connection.client || connection.peer}.`);
  } catch (err) {
    say(`Not cut: ${err.message}.`);
  }
  poll();
}

// examine runs the doctor, which takes some seconds.
async function examine(event) {
  const button = event.currentTarget;
  button.disabled = true;
  set(button, 'Looking…');
  try {
    const { findings } = await request('-/examine', { method: 'POST', signal: AbortSignal.timeout(30000) });
    const wrong = (findings ?? []).filter((f) => f.status === 'fail' || f.status === 'warn').length;
    say(wrong === 0 ? 'The doctor found all well.' : `The doctor found ${plural(wrong, 'thing')} to look at.`);
  } catch (err) {
    say(`Not examined: ${err.message}.`);
  }
  button.disabled = false;
  set(button, 'Run the doctor');
  poll();
}

startPlots();
startConnections({ ask: poll, cut });
document.getElementById('examine').addEventListener('click', examine);
trouble.querySelector('button').addEventListener('click', poll);
document.addEventListener('visibilitychange', poll);
poll();
