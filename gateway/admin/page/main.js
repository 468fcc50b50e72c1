// The status page: it polls the gateway and shows the answers.

import { list, make, set, show } from './dom.js';
import { bytes, clock, count, duration, plural } from './format.js';
import { showBanner } from './banner.js';
import { showBans, startBans } from './bans.js';
import { query, showConnections, showForwardChoices, startConnections } from './connections.js';
import { showForwards, startForwards } from './forwards.js';
import { showHost } from './host.js';
import { showPlots, startPlots } from './plots.js';
import { showRefusals } from './refusals.js';
import { showClients, showTrust } from './rules.js';

// Times in milliseconds.
const pollInterval = 2000;
const maxPollInterval = 30000; // after failures
const requestTimeout = 8000;
const examineTimeout = 30000;
const noticeTime = 10000;

const state = document.getElementById('state');
const trouble = document.getElementById('trouble');
const notice = document.getElementById('said');

let timer;
let polling = false;
let failures = 0; // since the last answer
let lastAnswer = null; // the time of the last answer, a Date
let started = null; // the start time of the gateway that answered last

// request sends a request to the gateway and returns the answer. If the gateway answers
// with an error, it throws that error.
async function request(path, options = {}) {
  const signal = AbortSignal.timeout(requestTimeout);
  const response = await fetch(path, { cache: 'no-store', signal, ...options });
  const answer = response.status === 204 ? null : await response.json();
  if (!response.ok) throw new Error(answer?.error ?? `${path}: ${response.status}`);
  return answer;
}

// retryInterval is the time until the next poll, which doubles with each failure.
function retryInterval() {
  return Math.min(pollInterval * 2 ** failures, maxPollInterval);
}

// poll polls once and schedules the next poll. A hidden tab stops polling, and polls
// immediately when it becomes visible. If the query has changed meanwhile, the next poll
// follows immediately.
async function poll() {
  clearTimeout(timer);
  if (polling || document.hidden) return;
  polling = true;
  const sent = query();
  try {
    const [status, connections, bans] = await Promise.all([
      request('status.json'), request(`connections.json?${sent}`), request('bans.json'),
    ]);
    showStatus(status);
    showConnections(connections);
    showBans(bans, status.time);
  } catch (err) {
    showFailure(err);
  }
  polling = false;
  timer = setTimeout(poll, sent === query() ? retryInterval() : 0);
}

// showStatus shows a status.
function showStatus(status) {
  if (started !== null && started !== status.started) say('The gateway was restarted.');
  started = status.started;
  failures = 0;
  lastAnswer = new Date();
  show(trouble, false);
  showState(status);
  showFacts(status);
  showBanner(status);
  showHost(status);
  showRefusals(status);
  showPlots(status);
  showForwards(status);
  showForwardChoices(status.forwards);
  showTrust(status.trust);
  showClients(status.clients);
}

// showFailure shows that a poll failed: the gateway is unreachable, or answered with an
// error. The data of the last answer stays on the page.
function showFailure(err) {
  failures++;
  const since = lastAnswer ? `since ${clock(lastAnswer)}. The data below is from then.` : 'yet.';
  set(trouble.querySelector('p'), `No status from the gateway ${since} (${err.message})`);
  set(trouble.querySelector('button'), `Retry now (automatically in ${retryInterval() / 1000} s)`);
  show(trouble, true);
  setState('no status', 'fail');
}

function setState(word, kind) {
  state.className = `pill ${kind}`;
  set(state, word);
  document.title = `${word} · unproxy`;
}

// showState shows in a word whether the gateway and its forwards are ready.
function showState(status) {
  const draining = (status.reasons ?? []).some((r) => r.reason === 'draining');
  if (!status.ready) setState(draining ? 'draining' : 'not ready', draining ? 'warn' : 'fail');
  else if (status.forwards.some((f) => f.reasons)) setState('degraded', 'warn');
  else setState('ready', 'ok');
}

function showFacts(status) {
  const limit = status.limit > 0 ? ` (limit ${count(status.limit)})` : '';
  const facts = [
    status.version.version,
    `up ${duration(status.uptime_seconds)}`,
    plural(status.active, 'connection') + limit,
    `${plural(status.loops.length, 'event loop')}: ${status.loops.map(count).join(', ')}`,
    `pid ${status.pid}`,
  ];
  const held = status.holdings;
  if (held.blocked > 0) {
    facts.push(`${plural(held.blocked, 'slow reader')}, ${bytes(held.buffered_bytes + held.piped_bytes)} held`);
  }
  if (held.half_closed > 0) facts.push(`${count(held.half_closed)} half-closed`);
  if (status.log_lines_dropped > 0) facts.push(`${plural(status.log_lines_dropped, 'log line')} lost`);
  list(document.getElementById('facts'), facts.map((text, i) => ({ text, i })), {
    key: (f) => f.i,
    create: () => make('li'),
    update: (li, f) => set(li, f.text),
  });
}

let noticeTimer;

// say shows a notice for a while.
function say(text) {
  set(notice, text);
  clearTimeout(noticeTimer);
  noticeTimer = setTimeout(() => set(notice, ''), noticeTime);
}

// cut resets a connection.
async function cut(connection) {
  try {
    await request(`connections/${encodeURIComponent(connection.id)}`, { method: 'DELETE' });
    say(`Connection ${connection.id} of ${connection.client || connection.peer} was cut.`);
  } catch (err) {
    say(`The connection was not cut: ${err.message}.`);
  }
  poll();
}

// ban bans a client, and calls done if it is banned.
async function ban(query, done) {
  try {
    const answer = await request(`bans?${query}`, { method: 'POST' });
    say(`${answer.prefix} is banned; ${plural(answer.cut, 'connection')} cut.`);
    done();
  } catch (err) {
    say(`Not banned: ${err.message}.`);
  }
  poll();
}

// unban ends a ban.
async function unban(prefix) {
  try {
    const answer = await request(`bans?${new URLSearchParams({ prefix })}`, { method: 'DELETE' });
    const wider = answer.covered_by.length > 0 ? `; still banned by ${answer.covered_by.join(', ')}` : '';
    say(`The ban of ${prefix} has ended${wider}.`);
  } catch (err) {
    say(`The ban did not end: ${err.message}.`);
  }
  poll();
}

// examine runs the host checks, which takes some seconds.
async function examine(event) {
  const button = event.currentTarget;
  button.disabled = true;
  set(button, 'Running…');
  try {
    const { findings } = await request('-/examine', { method: 'POST', signal: AbortSignal.timeout(examineTimeout) });
    const problems = (findings ?? []).filter((f) => f.status === 'fail' || f.status === 'warn').length;
    say(problems === 0 ? 'All host checks passed.' : `The host checks found ${plural(problems, 'problem')}.`);
  } catch (err) {
    say(`The host checks did not run: ${err.message}.`);
  }
  button.disabled = false;
  set(button, 'Run host checks');
  poll();
}

startPlots();
startForwards();
startConnections({ refresh: poll, cut });
startBans({ ban, unban });
document.getElementById('examine').addEventListener('click', examine);
trouble.querySelector('button').addEventListener('click', poll);
document.addEventListener('visibilitychange', poll);
poll();
