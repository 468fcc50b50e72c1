// The findings of the host checks.

import { commands, list, make, set, show, showCommands } from './dom.js';
import { ago, plural } from './format.js';

const rank = { fail: 0, warn: 1, skip: 2, ok: 3 };
const words = { fail: 'failed', warn: 'warning', skip: 'skipped', ok: 'passed' };

// showHost shows the findings. They are null if the checks have not run.
export function showHost(status) {
  const all = [...(status.findings ?? [])].sort((a, b) => rank[a.status] - rank[b.status]);
  showFindings(document.getElementById('findings'), all.filter((f) => rank[f.status] < rank.skip));
  const rest = all.filter((f) => rank[f.status] >= rank.skip);
  const details = document.getElementById('passed');
  showFindings(details.querySelector('ul'), rest);
  const skipped = rest.filter((f) => f.status === 'skip').length;
  const passed = `${plural(rest.length - skipped, 'check')} passed`;
  set(details.querySelector('summary'), skipped > 0 ? `${passed}, ${skipped} skipped` : passed);
  show(details, rest.length > 0);
  const examined = status.examined ? `run ${ago(status.examined, status.time)}` : 'Not run since the start.';
  set(document.getElementById('examined'), examined);
}

function showFindings(ul, findings) {
  list(ul, findings, {
    key: (f) => `${f.code} ${f.component} ${f.target}`,
    create: createFinding,
    update: updateFinding,
  });
}

function createFinding() {
  return make('li', '',
    make('p', '', make('span', 'pill'), ' ', make('b'), ' ', make('span', 'detail')), commands());
}

function updateFinding(li, f) {
  const [status, target] = li.querySelectorAll('.pill, b');
  status.className = `pill ${f.status}`;
  set(status, words[f.status]);
  set(target, `${f.component} ${f.target}`);
  set(li.querySelector('.detail'), f.detail);
  showCommands(li.querySelector('.action'), f.action ?? []);
}
