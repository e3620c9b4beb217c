// Shows Markdown: blocks of sanitized HTML become elements, and formulas become MathML. A text that grows is parsed
// and shown at the cost of its last blocks.
import { parse } from './syntax.js';
import DOMPurify from './vendor/purify.js';
import temml from './vendor/temml.js';

const MAX_FORMULAS_KEPT = 500;
const FORMULA_LIMITS = { maxSize: [40, 200], maxExpand: 1000 }; // em, macro expansions

const SAFE_ATTRIBUTES = ['class', 'dir', 'target', 'rel', 'title', 'start', 'tabindex', 'type', 'checked', 'disabled', 'data-tex'];
const ANSWER_HTML = {
  ALLOWED_TAGS: [
    'p', 'br', 'hr', 'h3', 'h4', 'h5', 'h6', 'ul', 'ol', 'li', 'input', 'blockquote', 'a', 'div', 'span', 'figure', 'figcaption',
    'button', 'pre', 'code', 'table', 'thead', 'tbody', 'tr', 'th', 'td', 'strong', 'b', 'em', 'i', 's', 'del', 'ins', 'u', 'sub',
    'sup', 'kbd', 'mark', '#text',
  ],
  ALLOWED_ATTR: ['href', ...SAFE_ATTRIBUTES],
  ADD_URI_SAFE_ATTR: SAFE_ATTRIBUTES,
  ALLOWED_URI_REGEXP: /^(?:https?|mailto):/i,
  ALLOW_DATA_ATTR: false,
  RETURN_DOM_FRAGMENT: true,
};
const FORMULA_HTML = {
  USE_PROFILES: { mathMl: true }, ADD_ATTR: ['class', 'form', 'style'], FORBID_ATTR: ['href', 'id'], IN_PLACE: true,
};

const shown = new WeakMap(); // element → what `render` made it show
const formulas = new Map(); // TeX and its form → MathML, in order of use

/** An element with properties (`dataset` included) and children. */
export function element(name, properties = {}, ...children) {
  const { dataset, ...others } = properties;
  const made = Object.assign(document.createElement(name), others);
  Object.assign(made.dataset, dataset);
  made.append(...children);
  return made;
}

/**
 * Makes `target` show a Markdown text. While the text is `growing`, only the last two blocks are parsed again, and
 * elements that are there already are changed rather than replaced: a selection or a scrolled code block stays.
 * The call without `growing` parses everything again, for what a later part of a text says of an earlier one.
 */
export function render(target, text, growing = false) {
  const before = shown.get(target) ?? { text: '', growing, blocks: [], env: { growing } };
  if (before.source === text && before.growing === growing) return;
  let visible = text.replace(/\r\n?/g, '\n');
  if (growing) visible = withoutMarkers(visible);
  const goesOn = growing && before.growing && visible.startsWith(before.text);
  const kept = goesOn ? Math.max(0, before.blocks.length - 2) : 0;
  const from = kept > 0 ? before.blocks[kept].from : 0;
  const env = goesOn ? before.env : { growing };
  const blocks = [...before.blocks.slice(0, kept), ...blocksOf(visible, from, env)];
  for (let at = kept; at < blocks.length; at += 1) {
    const element = target.children[at];
    if (element && before.blocks[at]?.html === blocks[at].html) continue;
    const made = built(blocks[at].html);
    if (element) change(element, made);
    else target.append(made);
  }
  while (target.children.length > blocks.length) target.lastElementChild.remove();
  shown.set(target, { source: text, text: visible, growing, blocks, env });
}

/** Removes a last line that has only markers: their meaning depends on what follows them. */
function withoutMarkers(text) {
  const begin = text.lastIndexOf('\n') + 1;
  return /^[-=_*+~`#>|$\\: \t]+$/.test(text.slice(begin)) ? text.slice(0, begin) : text;
}

/** The blocks of a text from an index on, which is the beginning of one, with the indices at which they begin. */
function blocksOf(text, from, env) {
  const rest = text.slice(from);
  let line = 0;
  let at = 0;
  return parse(rest, env).map((block) => {
    for (; line < block.line; line += 1) at = rest.indexOf('\n', at) + 1;
    return { from: from + at, html: block.html };
  });
}

/** The element of a block's HTML. */
function built(html) {
  const made = DOMPurify.sanitize(html, ANSWER_HTML).firstElementChild;
  const inside = [...made.querySelectorAll('[data-tex]')];
  for (const formula of made.matches('[data-tex]') ? [made, ...inside] : inside) fillFormula(formula);
  return made;
}

/** Replaces the source of a formula with MathML. If it cannot be read, the source stays, and the title says why. */
function fillFormula(target) {
  const { tex } = target.dataset;
  const displayMode = target.classList.contains('display');
  const key = `${displayMode} ${tex}`;
  try {
    const math = formulas.get(key) ?? mathOf(tex, displayMode);
    formulas.delete(key);
    formulas.set(key, math);
    if (formulas.size > MAX_FORMULAS_KEPT) formulas.delete(formulas.keys().next().value);
    target.replaceChildren(math.cloneNode(true));
  } catch (error) {
    target.classList.add('unreadable');
    target.title = error.message;
  }
}

function mathOf(tex, displayMode) {
  const holder = element('span');
  temml.render(tex, holder, { displayMode, throwOnError: true, trust: false, ...FORMULA_LIMITS });
  const [math] = holder.children;
  DOMPurify.sanitize(math, FORMULA_HTML);
  return math;
}

/** Makes a node like another one, and keeps as much of it as is alike. */
function change(node, wanted) {
  if (node.nodeType === Node.TEXT_NODE && wanted.nodeType === Node.TEXT_NODE) {
    if (node.data === wanted.data) return;
    if (wanted.data.startsWith(node.data)) node.appendData(wanted.data.slice(node.data.length));
    else node.data = wanted.data;
    return;
  }
  if (!node.cloneNode(false).isEqualNode(wanted.cloneNode(false))) {
    node.replaceWith(wanted);
    return;
  }
  const children = [...wanted.childNodes];
  children.forEach((child, at) => {
    if (node.childNodes[at]) change(node.childNodes[at], child);
    else node.append(child);
  });
  while (node.childNodes.length > children.length) node.lastChild.remove();
}
