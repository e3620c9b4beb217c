// The syntax of answers: CommonMark with tables, strikethrough, task lists, autolinks and TeX formulas, parsed by
// markdown-it. The result is HTML that `markdown.js` sanitizes. HTML in an answer is text, except for a few tags.
import MarkdownIt from './vendor/markdown-it.js';

const MAX_FORMULA_CHARACTERS = 10_000; // limits the search for closing delimiters, which would take quadratic time
const MAX_TAG_CHARACTERS = 2_000; // between <sub> and </sub>
const LINK_SCHEME = /^(?:https?|mailto):/i;
const ENVIRONMENT = /^\\begin\{((?:align|alignat|equation|gather|multline)\*?)\}/;
const INLINE_TAG = /^<(sub|sup|kbd|mark|ins|u|b|strong|i|em|s|del)>/i;
const LINE_BREAK_TAG = /^<br *\/?>/i;
const TASK = /^\[([ xX])\] /;
const WORD = /[A-Za-z0-9_]/; // Latin only: text in other scripts may have no space beside a formula
const SUFFIX = /^(?:st|nd|rd|th|s)\b/; // may follow a formula, as in $n$th
const CJK = /[\p{Script=Han}\p{Script=Hiragana}\p{Script=Katakana}\p{Script=Hangul}\u3000-\u303f\uff00-\uffef]/u;
const CELL_LITERAL = /(?<!\\)(`+)(?!`).+?(?<!`)\1(?!`)|\\\(.+?\\\)|\$(?![\s$])[^$]*[^\s$]\$/g; // code or a formula in a table row
const PROTECTED_PIPE = '\ufdd0'; // a noncharacter that replaces a | inside a cell

const md = new MarkdownIt({ html: false, linkify: true, breaks: true });
const { escapeHtml } = md.utils;

/**
 * Parses Markdown. Returns its top-level blocks in order: `line` is the first line, from 0, and `html` is one element.
 * `env` keeps link definitions between calls. With `env.growing`, a formula that is not closed yet is a block.
 */
export function parse(text, env) {
  const tokens = md.parse(text, env);
  const blocks = [];
  let depth = 0;
  let begin = 0;
  tokens.forEach((token, index) => {
    depth += token.nesting;
    if (depth > 0) return;
    const block = tokens.slice(begin, index + 1);
    blocks.push({ line: block[0].map[0], html: md.renderer.render(block, md.options, env) });
    begin = index + 1;
  });
  return blocks;
}

/* Links and images */

md.validateLink = (url) => LINK_SCHEME.test(url.trim());
// `main.rs` and `app.py` look like host names: without a scheme, only www. and e-mail addresses are links.
md.linkify.set({ fuzzyLink: false });
md.linkify.add('ftp:', null).add('//', null);
md.linkify.add('www.', {
  validate: (text, pos) => /^[\p{L}\p{N}-]+(?:\.[\p{L}\p{N}-]+)+(?:[/?#][^\s<>"'`]*[^\s<>"'`.,:;!?*_)\]])?/u.exec(text.slice(pos, pos + 2000))?.[0].length ?? 0,
  normalize: (match) => { match.url = `http://${match.url}`; },
});

const LINK_ATTRIBUTES = 'target="_blank" rel="noopener noreferrer"';

md.renderer.rules.link_open = (tokens, at, options, env, renderer) => {
  tokens[at].attrSet('target', '_blank');
  tokens[at].attrSet('rel', 'noopener noreferrer');
  return renderer.renderToken(tokens, at, options);
};

// The page loads nothing from other servers: an image becomes a link to it, or its description inside another link.
md.renderer.rules.image = (tokens, at, options, env, renderer) => {
  const source = tokens[at].attrGet('src');
  const label = escapeHtml(renderer.renderInlineAsText(tokens[at].children, options, env) || source);
  const depth = tokens.slice(0, at).reduce((sum, { type, nesting }) => (type.startsWith('link_') ? sum + nesting : sum), 0);
  return depth > 0 ? label : `<a class="image" href="${escapeHtml(source)}" ${LINK_ATTRIBUTES}>${label}</a>`;
};

/* Formulas */

/** The index of the delimiter `\)` or `\]`, or -1. `\\` is a line break in TeX. */
function closingBracket(source, from, to, bracket) {
  for (let at = from; at < to - 1; at += 1) {
    if (source[at] !== '\\') continue;
    if (source[at + 1] === bracket) return at;
    at += 1;
  }
  return -1;
}

/** Whether a bracket escape belongs to `\[text\](target)`: escaped Markdown rather than TeX. */
function isEscapedLink(source, at, to) {
  const closing = source[at + 1] === ']' ? at : closingBracket(source, at + 2, to, ']');
  return closing >= 0 && source[closing + 2] === '(';
}

/** The formula at `from`: its TeX, the index after it, and whether it is displayed on its own line; or null. */
function formulaAt(source, from, limit) {
  const to = Math.min(limit, from + MAX_FORMULA_CHARACTERS);
  const result = (open, close, display) => {
    const tex = close < 0 ? '' : source.slice(from + open, close);
    return tex.trim() ? { tex, end: close + open, display } : null;
  };
  if (source.startsWith('\\(', from)) return result(2, closingBracket(source, from + 2, to, ')'), false);
  if (source.startsWith('\\[', from)) {
    return isEscapedLink(source, from, to) ? null : result(2, closingBracket(source, from + 2, to, ']'), true);
  }
  if (source[from] !== '$' || source[from - 1] === '$') return null;
  const close = (delimiter, at) => {
    for (; at < to && !source.startsWith(delimiter, at); at += 1) if (source[at] === '\\') at += 1;
    return at < to ? at : -1;
  };
  if (source[from + 1] === '$') {
    const end = close('$$', from + 2);
    return source[end + 2] === '$' ? null : result(2, end, true);
  }
  const end = close('$', from + 1);
  return end < 0 || isNotFormula(source, from, end) ? null : result(1, end, false);
}

/** Whether two dollar signs do not delimit a formula: `$5 and $10`, `$5-$10`, `$HOME:$PATH`. */
function isNotFormula(source, from, end) {
  if (/\s/.test(source[from + 1]) || /\s/.test(source[end - 1])) return true;
  if ('^_'.includes(source[from + 1])) return false; // H$_2$O
  const isWord = (character) => character !== undefined && WORD.test(character);
  return isWord(source[from - 1]) || (isWord(source[end + 1]) && !SUFFIX.test(source.slice(end + 1, end + 4)));
}

md.inline.ruler.before('escape', 'formula', (state, silent) => {
  const formula = formulaAt(state.src, state.pos, state.posMax);
  if (!formula) return false;
  if (!silent) {
    const token = state.push('formula', 'span', 0);
    token.content = formula.tex;
    token.markup = state.src.slice(state.pos, formula.end);
    token.meta = { display: formula.display };
  }
  state.pos = formula.end;
  return true;
});

// TeX outside delimiters keeps its backslashes. Markdown needs an escape of these characters only in
// `\[text\](target)`.
md.inline.ruler.before('escape', 'tex_escape', (state, silent) => {
  const { src, pos, posMax } = state;
  if (src[pos] !== '\\' || pos + 1 >= posMax || !'()[],;:'.includes(src[pos + 1])) return false;
  if ('[]'.includes(src[pos + 1]) && isEscapedLink(src, pos, Math.min(posMax, pos + MAX_FORMULA_CHARACTERS))) return false;
  if (!silent) state.pending += src.slice(pos, pos + 2);
  state.pos += 2;
  return true;
});

/** A formula that starts at the beginning of a line and stops at the end of one. `$$` and environments contain no empty lines. */
function formulaBlock(state, startLine, endLine, silent) {
  if (state.sCount[startLine] - state.blkIndent >= 4) return false;
  const first = state.src.slice(state.bMarks[startLine] + state.tShift[startLine], state.eMarks[startLine]);
  const environment = ENVIRONMENT.exec(first)?.[1];
  const open = environment ? '' : /^(?:\\\[|\$\$(?!\$))/.exec(first)?.[0];
  if (open === undefined) return false;
  const close = environment ? `\\end{${environment}}` : open === '$$' ? '$$' : '\\]';
  let source = '';
  let line = startLine;
  let end = -1; // index of the closing delimiter
  let from = open.length;
  for (; line < endLine && end < 0; line += 1) {
    const isEmpty = state.isEmpty(line);
    if (isEmpty && open !== '\\[') break;
    if (!isEmpty && line > startLine && state.sCount[line] < state.blkIndent) break;
    source += line === startLine ? first : `\n${state.getLines(line, line + 1, state.blkIndent, false)}`;
    if (source.length > MAX_FORMULA_CHARACTERS) return false;
    end = open === '\\[' ? closingBracket(source, from, source.length, ']') : source.indexOf(close, from);
    from = Math.max(open.length, source.length - 1);
  }
  const token = (type, tex) => {
    const added = state.push(type, 'div', 0);
    Object.assign(added, { block: true, content: tex, markup: source, map: [startLine, line], meta: { display: true } });
    state.line = line;
  };
  if (end < 0) {
    if (!state.env.growing || line < endLine) return false;
    if (!silent) token('formula_pending', source);
    return true;
  }
  const trailing = source.slice(end + close.length);
  const tex = environment ? source.slice(0, end + close.length) : source.slice(open.length, end);
  if (!/^[\s.,;:!?]*$/.test(trailing) || !tex.trim()) return false;
  if (!silent) token('formula', tex + trailing.trim());
  return true;
}
md.block.ruler.before('fence', 'formula_block', formulaBlock, { alt: ['paragraph', 'reference', 'blockquote', 'list'] });

// MathML is created after the HTML is sanitized. Before that, and for formulas with a syntax error, the source is
// shown.
md.renderer.rules.formula = (tokens, at) => {
  const { tag, meta, content, markup } = tokens[at];
  const shape = meta.display ? 'formula display' : 'formula';
  return `<${tag} class="${shape}" dir="ltr" data-tex="${escapeHtml(content)}">${escapeHtml(markup)}</${tag}>`;
};
md.renderer.rules.formula_pending = (tokens, at) => `<div class="formula pending" dir="ltr">${escapeHtml(tokens[at].markup)}</div>`;

/* HTML tags without Markdown notation */

md.inline.ruler.before('html_inline', 'inline_tag', (state, silent) => {
  if (state.src[state.pos] !== '<') return false;
  const rest = state.src.slice(state.pos, Math.min(state.posMax, state.pos + MAX_TAG_CHARACTERS));
  const lineBreak = LINE_BREAK_TAG.exec(rest);
  if (lineBreak) {
    if (!silent) state.push('hardbreak', 'br', 0);
    state.pos += lineBreak[0].length;
    return true;
  }
  const opening = INLINE_TAG.exec(rest);
  if (!opening) return false;
  const name = opening[1].toLowerCase();
  const length = rest.toLowerCase().indexOf(`</${name}>`, opening[0].length);
  if (length < 0) return false;
  if (!silent) {
    const { pos, posMax } = state;
    state.pos = pos + opening[0].length;
    state.posMax = pos + length;
    state.push(`${name}_open`, name, 1);
    state.md.inline.tokenize(state);
    state.push(`${name}_close`, name, -1);
    state.pos = pos;
    state.posMax = posMax;
  }
  state.pos += length + name.length + 3;
  return true;
});

/* Emphasis beside Chinese, Japanese and Korean text, which has no spaces between words */

const { scanDelims } = md.inline.State.prototype;
md.inline.State.prototype.scanDelims = function scanDelimsBesideCjk(start, canSplitWord) {
  const delimiters = scanDelims.call(this, start, canSplitWord);
  const before = this.src[start - 1] ?? ' ';
  const after = start + delimiters.length < this.posMax ? this.src[start + delimiters.length] : ' ';
  if (!canSplitWord || !(CJK.test(before) || CJK.test(after))) return delimiters;
  return { ...delimiters, can_open: !/\s/.test(after), can_close: !/\s/.test(before) };
};

/* Lists */

/**
 * Indents bullets (and the lines after them) below a numbered item if they are indented by less than the item's text:
 * models write nested lists this way.
 */
function indentNestedBullets(text) {
  let fence = null;
  let contentIndent = 0; // indent of the current numbered item's text, or 0
  let shift = 0;
  return text.split('\n').map((line) => {
    const indent = /^ */.exec(line)[0].length;
    if (indent === line.length) return line;
    const mark = /^(?:`{3,}|~{3,})/.exec(line.slice(indent))?.[0];
    if (indent === 0 || fence || (mark && shift === 0 && indent < contentIndent)) {
      if (fence) fence = mark?.startsWith(fence) ? null : fence;
      else fence = mark ?? null;
      shift = 0;
      contentIndent = fence ? 0 : /^\d{1,9}[.)] +(?=\S)/.exec(line)?.[0].length ?? 0;
      return line;
    }
    if (shift === 0 && indent < contentIndent && /^[-*+] /.test(line.slice(indent))) shift = contentIndent - indent;
    return ' '.repeat(shift) + line;
  }).join('\n');
}
md.core.ruler.before('block', 'nested_bullets', (state) => { state.src = indentNestedBullets(state.src); });

/** Turns a list item that begins with `[ ]` or `[x]` into a task. */
function asTask(item, inline) {
  const [text] = inline.children;
  const task = text?.type === 'text' ? TASK.exec(text.content) : null;
  if (!task) return;
  text.content = text.content.slice(task[0].length);
  item.attrJoin('class', 'task');
  const box = Object.assign(new text.constructor('task', 'input', 0), { meta: { done: task[1] !== ' ' } });
  inline.children.unshift(box);
}
md.renderer.rules.task = (tokens, at) => `<input type="checkbox" disabled${tokens[at].meta.done ? ' checked' : ''}> `;

/* Blocks: the level of headings, the direction of text */

md.core.ruler.push('page_blocks', ({ tokens }) => {
  const parents = [];
  tokens.forEach((token, at) => {
    if (token.nesting < 0) parents.pop();
    const inside = parents.at(-1)?.type;
    if (token.type.startsWith('heading_')) token.tag = `h${Math.min(6, Number(token.tag[1]) + 2)}`;
    // With dir=auto, a browser derives the direction of a block from its text, except parts with their own direction.
    const isText = ['paragraph_open', 'heading_open'].includes(token.type) && inside !== 'list_item_open' && inside !== 'blockquote_open';
    if (isText || ['list_item_open', 'blockquote_open', 'table_open'].includes(token.type)) token.attrSet('dir', 'auto');
    if (token.type === 'inline' && inside === 'paragraph_open' && tokens[at - 2]?.type === 'list_item_open') asTask(tokens[at - 2], token);
    if (token.nesting > 0) parents.push(token);
  });
});

/* Tables */

const tableRule = new MarkdownIt('zero').enable('table').block.ruler.getRules('')[0];

const columns = (row) => row.trim().replace(/^\||(?<!\\)\|$/g, '').split(/(?<!\\)\|/).length;

/** Protects `|` in code and formulas from ending a cell, unless the row has the expected number of cells without that. */
function protectPipes(row, expected) {
  if (!row.includes('|') || columns(row) === expected) return row;
  return row.replace(CELL_LITERAL, (literal) => literal.replace(/(?<!\\)\|/g, PROTECTED_PIPE));
}

md.block.ruler.at('table', (state, startLine, endLine, silent) => {
  const { src } = state;
  const lineAt = (line) => src.slice(state.bMarks[line] + state.tShift[line], state.eMarks[line]);
  if (startLine + 1 >= endLine || !/^[|:-][-|: \t]*$/.test(lineAt(startLine + 1))) return false;
  const expected = columns(lineAt(startLine + 1));
  if (columns(protectPipes(lineAt(startLine), expected)) !== expected) return false;
  let changed = src.slice(0, state.bMarks[startLine]);
  for (let line = startLine; line < endLine && !state.isEmpty(line); line += 1) {
    const begin = state.bMarks[line] + state.tShift[line];
    changed += src.slice(changed.length, begin) + protectPipes(lineAt(line), expected);
    if (silent && line > startLine) break;
  }
  const firstToken = state.tokens.length;
  if (!src.includes(PROTECTED_PIPE)) state.src = changed + src.slice(changed.length);
  const isTable = tableRule(state, startLine, endLine, silent);
  state.src = src;
  for (const token of state.tokens.slice(firstToken)) token.content = token.content.replaceAll(PROTECTED_PIPE, '|');
  return isTable;
}, { alt: ['paragraph', 'reference'] });

md.renderer.rules.table_open = (tokens, at, options, env, renderer) => `<div class="table" tabindex="0">${renderer.renderToken(tokens, at, options)}`;
md.renderer.rules.table_close = () => '</table></div>';

// The page's Content-Security-Policy forbids style attributes.
const cell = (tokens, at, options, env, renderer) => {
  const token = tokens[at];
  const alignment = /^text-align:(\w+)$/.exec(token.attrGet('style') ?? '')?.[1];
  token.attrs = alignment ? [['class', alignment]] : null;
  return renderer.renderToken(tokens, at, options);
};
md.renderer.rules.td_open = cell;
md.renderer.rules.th_open = cell;

/* Code */

function code(language, text) {
  const head = `<figcaption><span>${escapeHtml(language || 'text')}</span><button type="button" class="quiet copy-code">Copy</button></figcaption>`;
  // tabindex allows scrolling long lines with the keyboard.
  return `<figure class="code" dir="ltr">${head}<pre tabindex="0"><code>${escapeHtml(text.replace(/\n$/, ''))}</code></pre></figure>`;
}
md.renderer.rules.code_block = (tokens, at) => code('', tokens[at].content);
md.renderer.rules.fence = (tokens, at) => {
  const { info, content } = tokens[at];
  const language = md.utils.unescapeAll(info).trim().split(/\s+/)[0];
  if (language === 'math' && content.trim()) {
    return `<div class="formula display" dir="ltr" data-tex="${escapeHtml(content.trim())}">${escapeHtml(content)}</div>`;
  }
  return code(language, content);
};
md.renderer.rules.code_inline = (tokens, at) => `<code dir="ltr">${escapeHtml(tokens[at].content)}</code>`;
