// Helpers that create and update elements. Text is never parsed as markup, here or
// anywhere else on the page.

// make returns an element with a class and children, which are elements or strings.
export function make(name, className, ...children) {
  const e = document.createElement(name);
  if (className) e.className = className;
  e.append(...children);
  return e;
}

// set sets the text of an element. It does not touch the element if the text is the
// same, so that a selection in it is kept.
export function set(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

// show shows or hides an element.
export function show(element, visible) {
  element.hidden = !visible;
}

// printable escapes the characters of an untrusted text that are invisible or
// rearrange the text around them (Unicode category C: controls, and formats such as
// the right-to-left override).
export function printable(text) {
  return text.replace(/\p{C}/gu, (c) => `\\u{${c.codePointAt(0).toString(16)}}`);
}

const children = new WeakMap(); // from a parent to a Map from keys to children

// list updates the children of an element to match items. It calls create for an item
// with a new key, and update for every item. Existing children stay the same
// elements, so that focus and selection are kept. The first lead children of the
// parent are not part of the list.
export function list(parent, items, { key, create, update, lead = 0 }) {
  const before = children.get(parent) ?? new Map();
  const now = new Map();
  for (const item of items) {
    const k = key(item);
    if (now.has(k)) continue;
    const child = before.get(k) ?? create(item);
    update(child, item);
    now.set(k, child);
  }
  for (const [k, child] of before) if (!now.has(k)) child.remove();
  const focused = document.activeElement;
  let i = lead;
  for (const child of now.values()) {
    const there = parent.children[i++] ?? null;
    if (there !== child) parent.insertBefore(child, there);
  }
  if (focused !== document.activeElement && focused.isConnected) focused.focus({ preventScroll: true });
  children.set(parent, now);
}

// row returns a table row with a cell for each of columns: {label, kind, head, unit}. kind
// is a class that says how the cell is laid out. On a phone a row is one line with the
// cells of kind "brief"; the button in its first cell shows the others. unit follows the
// value there. The first cell's text belongs into its last child. Roles are explicit
// because on a phone the stylesheet changes the display of rows and cells, which would
// remove their implicit roles.
export function row(columns, name) {
  const tr = make('tr');
  tr.setAttribute('role', 'row');
  for (const c of columns) {
    const cell = make(c.head ? 'th' : 'td', c.kind);
    cell.setAttribute('role', c.head ? 'rowheader' : 'cell');
    if (c.head) cell.scope = 'row';
    cell.dataset.label = c.label;
    if (c.unit) cell.dataset.unit = c.unit;
    tr.append(cell);
  }
  tr.cells[0].append(fold(tr, name), make('div', 'text'));
  return tr;
}

// fold returns a button that shows and hides the details of an element: it toggles the
// class "open".
export function fold(element, name) {
  const button = make('button', 'fold');
  button.type = 'button';
  button.setAttribute('aria-label', `Details of this ${name}`);
  button.setAttribute('aria-expanded', 'false');
  button.addEventListener('click', () => {
    button.setAttribute('aria-expanded', String(element.classList.toggle('open')));
  });
  return button;
}

// lines sets the text of an element to lines: the first one in normal print, the others
// in small print. It skips empty ones.
export function lines(element, ...texts) {
  const wanted = texts.filter((t) => t !== '' && t !== undefined);
  list(element, wanted.map((text, i) => ({ text, i })), {
    key: (l) => l.i,
    create: (l) => make('div', l.i > 0 ? 'muted' : ''),
    update: (div, l) => set(div, l.text),
  });
}

const chipsShown = 12;
const unfolded = new WeakSet(); // elements whose chips are all shown

// chips shows short texts {text, n} in an element, those with the largest n first. If
// there are many, a button shows the rest. n is shown unless it is undefined. The first
// lead children of the element are no chips.
export function chips(element, items, lead = 0) {
  const sorted = [...items].sort((a, b) => (b.n ?? 0) - (a.n ?? 0));
  const shown = unfolded.has(element) ? sorted : sorted.slice(0, chipsShown);
  const more = sorted.length - shown.length;
  const all = shown.map((c) => ({ key: `c ${c.text}`, text: c.n === undefined ? c.text : `${c.text} × ${c.n}` }));
  if (more > 0) all.push({ key: 'more', text: `and ${more} more`, more: true });
  list(element, all, {
    lead,
    key: (c) => c.key,
    create: (c) => {
      const e = make(c.more ? 'button' : 'span', 'chip');
      if (c.more) {
        e.type = 'button';
        e.addEventListener('click', () => {
          unfolded.add(element);
          chips(element, items, lead);
        });
      }
      return e;
    },
    update: (e, c) => set(e, c.text),
  });
}

const copiedFor = 2000; // ms for which the button says so

// commands returns an element for shell commands, with a button that copies them.
export function commands() {
  const copy = make('button', 'small', 'Copy');
  copy.type = 'button';
  const text = make('pre');
  text.tabIndex = 0; // reachable by keyboard, because it may scroll
  copy.addEventListener('click', async () => {
    await navigator.clipboard.writeText(text.textContent);
    set(copy, 'Copied');
    setTimeout(() => set(copy, 'Copy'), copiedFor);
  });
  return make('div', 'action', text, copy);
}

// showCommands shows lines in an element that commands returned, or hides it.
export function showCommands(element, all) {
  const [text, copy] = element.children;
  set(text, all.join('\n'));
  show(element, all.length > 0);
  show(copy, navigator.clipboard !== undefined); // only on a secure origin
}
