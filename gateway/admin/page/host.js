// The findings of the host checks.

import { list, make, set, show } from './dom.js';
import { ago, plural } from './format.js';

const copiedFor = 2000; // ms for which the button says so
const rank = { fail: 0, warn: 1, skip: 2, ok: 3 };
const words = { fail: 'failed', warn: 'warning', skip: 'skipped', ok: 'passed' };

// showHost shows the findings. They are null if the checks have not run.
export function showHost(status) {
  const all = [...(status.findings ?? [])].sort((a, b) => rank[a.status] - rank[b.status]);
  const open = all.filter((f) => f.status !== 'ok');
  const passed = all.filter((f) => f.status === 'ok');
  showFindings(document.getElementById('findings'), open);
  const details = document.getElementById('passed');
  showFindings(details.querySelector('ul'), passed);
  set(details.querySelector('summary'), `${plural(passed.length, 'check')} passed`);
  show(details, passed.length > 0);
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
  const copy = make('button', 'small', 'Copy');
  copy.type = 'button';
  const commands = make('pre');
  commands.tabIndex = 0; // reachable by keyboard, because it may scroll
  copy.addEventListener('click', async () => {
    await navigator.clipboard.writeText(commands.textContent);
    set(copy, 'Copied');
    setTimeout(() => set(copy, 'Copy'), copiedFor);
  });
  return make('li', '',
    make('p', '', make('span', 'pill'), ' ', make('b'), ' ', make('span', 'detail')),
    make('div', 'action', commands, copy));
}

function updateFinding(li, f) {
  const [status, target] = li.querySelectorAll('.pill, b');
  status.className = `pill ${f.status}`;
  set(status, words[f.status]);
  set(target, `${f.component} ${f.target}`);
  set(li.querySelector('.detail'), f.detail);
  const action = li.querySelector('.action');
  set(action.querySelector('pre'), (f.action ?? []).join('\n'));
  show(action, (f.action ?? []).length > 0);
  show(action.querySelector('button'), navigator.clipboard !== undefined); // only on a secure origin
}
