// What the other modules make elements with. Text only ever becomes text:
// nothing here, or anywhere on the page, takes markup.

// make returns an element of a class with children: elements, or texts.
export function make(name, className, ...children) {
  const e = document.createElement(name);
  if (className) e.className = className;
  e.append(...children);
  return e;
}

// set changes an element's text, if it is another one.
export function set(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

// show hides an element, or does not.
export function show(element, visible) {
  element.hidden = !visible;
}

// printable writes out what would not be seen in a text of a stranger's, or
// would rearrange what stands around it (Unicode's category C: controls, and
// formats such as the right-to-left override).
export function printable(text) {
  return text.replace(/\p{C}/gu, (c) => `\\u{${c.codePointAt(0).toString(16)}}`);
}

const kept = new WeakMap();

// list keeps the children of an element in step with items: create makes a child for
// an item that is new, by its key, and update changes one. What is there
// already stays the same element, so that focus and selection are not lost. The
// first children, so many as lead says, are not of the list.
export function list(parent, items, { key, create, update, lead = 0 }) {
  const before = kept.get(parent) ?? new Map();
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
  kept.set(parent, now);
}

// row makes a row of a table with so many cells as there are columns: {label,
// kind, head}. The kind, a class, says how the cell is laid out. Roles are written out, for on narrow screens rows are no rows
// in the style any more.
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

// lines makes an element's children lines of text, the first one plain and the
// others as small print.
export function lines(element, ...texts) {
  const wanted = texts.filter((t) => t !== '' && t !== undefined);
  list(element, wanted.map((text, i) => ({ text, i })), {
    key: (l) => l.i,
    create: (l) => make('div', l.i > 0 ? 'muted' : ''),
    update: (div, l) => set(div, l.text),
  });
}
