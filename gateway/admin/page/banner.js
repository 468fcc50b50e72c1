// The banner: why the gateway or a forward is not ready, which backends are down, and the
// commands that fix it.

import { chips, commands, list, make, set, show, showCommands } from './dom.js';
import { plural } from './format.js';

const banner = document.getElementById('reasons');

// What to do about a reason without a command, see docs/operations.md.
const advice = {
  connections: 'Raise --max-connections and the limit of open files; sort connections by what they hold.',
  buffers: 'Raise --max-buffer, or set --idle-timeout; sort connections by what they hold.',
  'backends down': 'They are tried last. Start them, or check that they listen on these addresses.',
  backends: 'Start a backend, or check that it listens on this address.',
  descriptors: 'Raise the limit of open files, or lower --max-connections.',
};

// problems returns the reasons of a status, each once: {reason, details, forwards}.
function problems(status, degraded) {
  const all = new Map();
  const add = (r, forward) => {
    const one = all.get(r.reason) ?? { reason: r.reason, details: [], forwards: [] };
    if (r.detail && !one.details.includes(r.detail)) one.details.push(r.detail);
    if (forward !== undefined) one.forwards.push(forward);
    all.set(r.reason, one);
  };
  for (const f of degraded) for (const r of f.reasons) add(r, f.name);
  for (const r of status.reasons ?? []) if (!all.has(r.reason)) add(r);
  const dead = deadBackends(status);
  return [...all.values(), ...(dead ? [dead] : [])];
}

// deadBackends returns the backends that are down as a problem, or null. They are down by
// the last connection if there are no checks; without these a forward stays ready.
function deadBackends(status) {
  const dead = { reason: 'backends down', details: [], forwards: [], hidden: 0 };
  for (const f of status.forwards) {
    if (f.backends_down === 0) continue;
    dead.forwards.push(f.name);
    const down = f.backends.filter((b) => !b.up);
    dead.details.push(...down.map((b) => b.backend + (b.last_error ? `: ${b.last_error}` : '')));
    dead.hidden += f.backends_down - down.length;
  }
  dead.details = [...new Set(dead.details)];
  return dead.forwards.length > 0 ? dead : null;
}

const listed = 16; // the most backends of a forward in an answer, see docs/json.md

// withoutBackend returns the number of forwards all of whose backends are down. It leaves
// out those that may have backends beyond the listed ones.
function withoutBackend(status) {
  return status.forwards.filter((f) => f.backends_down > 0 && f.backends_down === f.backends.length &&
    f.backends.length < listed).length;
}

// fixes returns the commands of failed host checks for a reason, each once.
function fixes(status, reason) {
  if (reason !== 'return_path') return [];
  const failed = (status.findings ?? []).filter((f) => f.status === 'fail' && f.component === 'return path');
  return [...new Set(failed.flatMap((f) => f.action ?? []))];
}

// summary returns a sentence about the gateway's readiness.
function summary(status, degraded) {
  if (!status.ready) return 'Not ready: stop sending new connections.';
  const parts = [];
  const add = (n, words) => {
    if (n > 0) parts.push(`${plural(n, 'forward')} of ${status.forwards.length} ${n === 1 ? 'is' : 'are'} ${words}`);
  };
  add(degraded.length, 'degraded');
  add(withoutBackend(status), 'without a backend that works');
  return parts.length > 0 ? `Ready, but ${parts.join(', ')}.` : 'Ready, but backends are down.';
}

const detailsShown = 3;

// showBanner shows whether the gateway and its forwards are ready, and if not, why.
export function showBanner(status) {
  const degraded = status.forwards.filter((f) => f.reasons);
  const all = problems(status, degraded);
  show(banner, !status.ready || all.length > 0);
  banner.classList.toggle('bad', !status.ready);
  set(banner.querySelector('p'), summary(status, degraded));
  list(banner.querySelector('ul'), all, {
    key: (p) => p.reason,
    create: () => make('li', '', make('p', '', make('b'), ' ', make('span', 'detail')), make('p', 'chips'), commands()),
    update: (li, p) => {
      set(li.querySelector('b'), p.reason);
      const more = p.details.length - detailsShown + (p.hidden ?? 0);
      const details = p.details.slice(0, detailsShown).join('; ') + (more > 0 ? `; and ${more} more` : '');
      set(li.querySelector('.detail'), [details, advice[p.reason] ?? ''].filter((t) => t).join('. '));
      chips(li.querySelector('.chips'), p.forwards.map((text) => ({ text })));
      showCommands(li.querySelector('.action'), fixes(status, p.reason));
    },
  });
}
