// What the doctor found.

import { list, make, set, show } from './dom.js';
import { ago, plural } from './format.js';

const rank = { fail: 0, warn: 1, skip: 2, ok: 3 };
const words = { fail: 'fails', warn: 'look at it', skip: 'not looked at', ok: 'well' };

// showHost shows the findings; null are none that anybody has looked for.
export function showHost(status) {
  const all = [...(status.findings ?? [])].sort((a, b) => rank[a.status] - rank[b.status]);
  const wrong = all.filter((f) => f.status !== 'ok');
  const well = all.filter((f) => f.status === 'ok');
  showFindings(document.getElementById('findings'), wrong);
  const details = document.getElementById('well');
  showFindings(details.querySelector('ul'), well);
  set(details.querySelector('summary'), `${plural(well.length, 'check')} found all well`);
  show(details, well.length > 0);
  set(document.getElementById('examined'), status.examined ? `looked at ${ago(status.examined, status.time)}` : 'The doctor has not run since the start.');
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
  commands.tabIndex = 0; // it may scroll
  copy.addEventListener('click', async () => {
    await navigator.clipboard.writeText(commands.textContent);
    set(copy, 'Copied');
    setTimeout(() => set(copy, 'Copy'), 2000);
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
  show(action.querySelector('button'), navigator.clipboard !== undefined); // on a secure origin alone
}
