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

// row returns a table row with a cell for each of columns: {label, kind, head}. kind is
// a class that says how the cell is laid out. Roles are explicit because on narrow
// screens the stylesheet changes the display of rows and cells, which would remove
// their implicit roles.
export function row(columns) {
  const tr = make('tr');
  tr.setAttribute('role', 'row');
  for (const c of columns) {
    const cell = make(c.head ? 'th' : 'td', c.kind);
    cell.setAttribute('role', c.head ? 'rowheader' : 'cell');
    if (c.head) cell.scope = 'row';
    cell.dataset.label = c.label;
    tr.append(cell);
  }
  return tr;
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
