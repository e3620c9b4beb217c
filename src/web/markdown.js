// Renders Markdown: converts blocks of HTML to sanitized elements, and formulas to MathML. While a text grows, only its
// last blocks are parsed and rendered again.
import { parse } from './syntax.js';
import DOMPurify from './vendor/purify.js';
import temml from './vendor/temml.js';

const MAX_CACHED_FORMULAS = 500;
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

const rendered = new WeakMap(); // element → the text and blocks that `render` has rendered in it
const formulas = new Map(); // display mode and TeX → MathML, in order of use

/** Creates an element with properties (including `dataset`) and children. */
export function element(name, properties = {}, ...children) {
  const { dataset, ...others } = properties;
  const node = Object.assign(document.createElement(name), others);
  Object.assign(node.dataset, dataset);
  node.append(...children);
  return node;
}

/**
 * Renders a Markdown text in `target`. While the text is `growing`, only its last two blocks are parsed again, and
 * existing elements are updated instead of replaced, so that a selection or a scroll position is kept. The final call
 * without `growing` parses the whole text, because later parts can affect earlier ones (link definitions).
 */
export function render(target, text, growing = false) {
  const before = rendered.get(target) ?? { text: '', growing, blocks: [], env: { growing } };
  if (before.source === text && before.growing === growing) return;
  let visible = text.replace(/\r\n?/g, '\n');
  if (growing) visible = withoutMarkers(visible);
  const continues = growing && before.growing && visible.startsWith(before.text);
  const keptBlocks = continues ? Math.max(0, before.blocks.length - 2) : 0;
  const from = keptBlocks > 0 ? before.blocks[keptBlocks].from : 0;
  const env = continues ? before.env : { growing };
  const blocks = [...before.blocks.slice(0, keptBlocks), ...parseBlocks(visible, from, env)];
  for (let index = keptBlocks; index < blocks.length; index += 1) {
    const element = target.children[index];
    if (element && before.blocks[index]?.html === blocks[index].html) continue;
    const updated = buildElement(blocks[index].html);
    if (element) update(element, updated);
    else target.append(updated);
  }
  while (target.children.length > blocks.length) target.lastElementChild.remove();
  rendered.set(target, { source: text, text: visible, growing, blocks, env });
}

/** Removes a last line that has only Markdown markers: their meaning depends on the following text. */
function withoutMarkers(text) {
  const begin = text.lastIndexOf('\n') + 1;
  return /^[-=_*+~`#>|$\\: \t]+$/.test(text.slice(begin)) ? text.slice(0, begin) : text;
}

/** Parses the text from index `from`, where a block begins. Returns the blocks with the indices of their beginnings. */
function parseBlocks(text, from, env) {
  const rest = text.slice(from);
  let line = 0;
  let index = 0;
  return parse(rest, env).map((block) => {
    for (; line < block.line; line += 1) index = rest.indexOf('\n', index) + 1;
    return { from: from + index, html: block.html };
  });
}

/** Sanitizes a block's HTML and returns its element. */
function buildElement(html) {
  const block = DOMPurify.sanitize(html, ANSWER_HTML).firstElementChild;
  const inside = [...block.querySelectorAll('[data-tex]')];
  for (const formula of block.matches('[data-tex]') ? [block, ...inside] : inside) fillFormula(formula);
  return block;
}

/** Replaces the source of a formula with MathML. A formula with a syntax error keeps its source, with the error as title. */
function fillFormula(target) {
  const { tex } = target.dataset;
  const displayMode = target.classList.contains('display');
  const key = `${displayMode} ${tex}`;
  try {
    const math = formulas.get(key) ?? mathOf(tex, displayMode);
    formulas.delete(key);
    formulas.set(key, math);
    if (formulas.size > MAX_CACHED_FORMULAS) formulas.delete(formulas.keys().next().value);
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

/** Updates a node to equal `updated`, and keeps its equal parts. */
function update(node, updated) {
  if (node.nodeType === Node.TEXT_NODE && updated.nodeType === Node.TEXT_NODE) {
    if (node.data === updated.data) return;
    if (updated.data.startsWith(node.data)) node.appendData(updated.data.slice(node.data.length));
    else node.data = updated.data;
    return;
  }
  if (!node.cloneNode(false).isEqualNode(updated.cloneNode(false))) {
    node.replaceWith(updated);
    return;
  }
  const children = [...updated.childNodes];
  children.forEach((child, index) => {
    if (node.childNodes[index]) update(node.childNodes[index], child);
    else node.append(child);
  });
  while (node.childNodes.length > children.length) node.lastChild.remove();
}
