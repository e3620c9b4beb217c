// Markdown of a model becomes elements: paragraphs, headings, lists, quotes, tables, code, emphasis, links. Text
// reaches the page as text nodes alone, never as HTML; a link leads to http or https, or stays text.

const MOST_NESTED = 8;
const LIST_ITEM = /^(\s*)(?:[-*+]|(\d{1,9})[.)])(?:\s+(.*)|$)/;
const FENCE = /^\s{0,3}(`{3,}|~{3,})\s*([\w+#.-]*)[^`]*$/;
const HEADING = /^\s{0,3}(#{1,6})\s+(.*?)\s*#*\s*$/;
const RULE = /^\s{0,3}([-*_])(?:\s*\1){2,}\s*$/;
const QUOTE = /^\s{0,3}> ?/;
const TABLE_RULE = /^\s*\|?(?:\s*:?-+:?\s*\|)+(?:\s*:?-+:?\s*)?$/;

// The bounds keep a text that opens and never closes from costing its length squared.
const INLINE = new RegExp(
  [
    /\\(?<escaped>[!-/:-@[-`{-~])/,
    /(?<tick>`{1,8})(?<code>[^]{1,2000}?)(?<!`)\k<tick>(?!`)/,
    /(?<two>\*\*|__)(?=\S)(?<strong>[^]{1,1000}?)(?<=\S)\k<two>/,
    /(?<![\w*])\*(?=[^\s*])(?<starred>[^]{1,1000}?)(?<=[^\s*])\*(?!\*)/,
    /(?<!\w)_(?=[^\s_])(?<underlined>[^]{1,1000}?)(?<=[^\s_])_(?!\w)/,
    /~~(?=\S)(?<struck>[^]{1,1000}?)(?<=\S)~~/,
    /\[(?<label>[^\]\n]{1,500})\]\((?<target>[^()\s]{1,2000})(?:\s+"[^"\n]{0,500}")?\)/,
    /(?<bare>https?:\/\/[^\s<>()"'`]{1,2000}[^\s<>()"'`.,:;!?*_])/,
    /(?<newline> *\n)/,
  ].map((pattern) => pattern.source).join('|'),
  'g',
);

/** An element with properties (`dataset` included) and children. */
export function element(name, properties = {}, ...children) {
  const { dataset, ...others } = properties;
  const made = Object.assign(document.createElement(name), others);
  Object.assign(made.dataset, dataset);
  made.append(...children);
  return made;
}

/** Makes `target` show the text. Blocks that are there already stay, so that a text can grow at little cost. */
export function render(target, text) {
  const found = blocks(text.split('\n'));
  found.forEach((block, place) => {
    const source = JSON.stringify(block);
    const before = target.children[place];
    if (before?.source === source) return;
    const made = Object.assign(build(block, 0), { source });
    if (before) before.replaceWith(made);
    else target.append(made);
  });
  while (target.children.length > found.length) target.lastElementChild.remove();
}

/** Cuts lines into blocks: a kind, its lines without the marks around them, and what the marks said. */
function blocks(lines) {
  const found = [];
  let at = 0;
  const takeWhile = (belongs) => {
    const begin = at;
    while (at < lines.length && belongs(lines[at], at - begin)) at += 1;
    return lines.slice(begin, at);
  };
  while (at < lines.length) {
    const line = lines[at];
    const fence = FENCE.exec(line);
    const heading = HEADING.exec(line);
    if (!line.trim()) {
      at += 1;
    } else if (fence) {
      at += 1;
      const closing = new RegExp(`^\\s{0,3}\\${fence[1][0]}{${fence[1].length},}\\s*$`);
      found.push({ kind: 'code', language: fence[2], lines: takeWhile((inner) => !closing.test(inner)) });
      at += 1;
    } else if (heading) {
      at += 1;
      found.push({ kind: 'heading', level: heading[1].length, lines: [heading[2]] });
    } else if (RULE.test(line)) {
      at += 1;
      found.push({ kind: 'rule', lines: [] });
    } else if (QUOTE.test(line)) {
      found.push({ kind: 'quote', lines: takeWhile((inner) => QUOTE.test(inner)).map((inner) => inner.replace(QUOTE, '')) });
    } else if (LIST_ITEM.test(line)) {
      const begin = at;
      found.push({ kind: 'list', lines: takeWhile((inner, nth) => nth === 0 || inList(lines, begin, at)) });
    } else if (line.includes('|') && TABLE_RULE.test(lines[at + 1] ?? '')) {
      found.push({ kind: 'table', lines: takeWhile((inner) => inner.includes('|')) });
    } else {
      found.push({ kind: 'paragraph', lines: takeWhile((inner, nth) => nth === 0 || !beginsAnother(inner)) });
    }
  }
  return found;
}

function beginsAnother(line) {
  return !line.trim() || [FENCE, HEADING, RULE, QUOTE, LIST_ITEM].some((pattern) => pattern.test(line));
}

/** Whether the list that began at a line goes on at another: by an item of its kind, or what belongs to one. */
function inList(lines, begin, at) {
  const [, indent, number] = LIST_ITEM.exec(lines[begin]);
  const goesOn = (line) => {
    const item = RULE.test(line) ? null : LIST_ITEM.exec(line);
    if (!item) return /^\s{2,}\S/.test(line);
    return item[1].length > indent.length + 1 || (item[2] === undefined) === (number === undefined);
  };
  if (!lines[at].trim()) return goesOn(lines[at + 1] ?? '');
  return goesOn(lines[at]) || (lines[at - 1].trim() !== '' && !beginsAnother(lines[at]));
}

function build(block, depth) {
  const text = block.lines.join('\n');
  switch (depth < MOST_NESTED ? block.kind : 'paragraph') {
    case 'code': return code(block.language, text);
    case 'heading': return element(`h${Math.min(block.level + 2, 6)}`, {}, ...inline(text));
    case 'rule': return element('hr');
    case 'quote': return element('blockquote', {}, ...blocks(block.lines).map((inner) => build(inner, depth + 1)));
    case 'list': return list(block.lines, depth);
    case 'table': return table(block.lines);
    default: return element('p', {}, ...inline(text));
  }
}

function code(language, text) {
  const copy = element('button', { type: 'button', className: 'quiet copy-code', textContent: 'Copy' });
  const head = element('figcaption', {}, element('span', { textContent: language || 'text' }), copy);
  // A long line is scrolled sideways, with the keyboard, too.
  const body = element('pre', { tabIndex: 0 }, element('code', { textContent: text }));
  return element('figure', { className: 'code' }, head, body);
}

function list(lines, depth) {
  const [, indent, number] = LIST_ITEM.exec(lines[0]);
  const items = [];
  for (const line of lines) {
    const [, itsIndent, , rest] = LIST_ITEM.exec(line) ?? [];
    if (itsIndent !== undefined && itsIndent.length <= indent.length + 1) items.push([rest ?? '']);
    else items.at(-1).push(line.replace(/^\s{1,4}/, ''));
  }
  const made = items.map((item) => {
    const inner = blocks(item);
    const [first, ...others] = inner;
    if (first?.kind !== 'paragraph') return element('li', {}, ...inner.map((block) => build(block, depth + 1)));
    return element('li', {}, ...inline(first.lines.join('\n')), ...others.map((block) => build(block, depth + 1)));
  });
  return number === undefined ? element('ul', {}, ...made) : element('ol', { start: Number(number) }, ...made);
}

function table(lines) {
  const cells = (line) => line.trim().replace(/^\||\|$/g, '').split('|').map((cell) => inline(cell.trim()));
  const row = (name, line) => element('tr', {}, ...cells(line).map((cell) => element(name, {}, ...cell)));
  const head = element('thead', {}, row('th', lines[0]));
  const body = element('tbody', {}, ...lines.slice(2).map((line) => row('td', line)));
  return element('div', { className: 'table', tabIndex: 0 }, element('table', {}, head, body));
}

function inline(text, depth = 0) {
  if (depth > MOST_NESTED) return [text];
  const nodes = [];
  let end = 0;
  for (const match of text.matchAll(INLINE)) {
    const found = match.groups;
    const within = (name, inner) => element(name, {}, ...inline(inner, depth + 1));
    nodes.push(text.slice(end, match.index));
    end = match.index + match[0].length;
    if (found.escaped) nodes.push(found.escaped);
    else if (found.code) nodes.push(element('code', { textContent: found.code }));
    else if (found.strong) nodes.push(within('strong', found.strong));
    else if (found.starred ?? found.underlined) nodes.push(within('em', found.starred ?? found.underlined));
    else if (found.struck) nodes.push(within('del', found.struck));
    else if (found.newline) nodes.push(element('br'));
    else nodes.push(link(found.target ?? found.bare, found.label, match[0]));
  }
  nodes.push(text.slice(end));
  return nodes.filter((node) => node !== '');
}

function link(target, label, source) {
  const protocol = URL.canParse(target) && new URL(target).protocol;
  if (protocol !== 'http:' && protocol !== 'https:') return source;
  return element('a', { href: target, target: '_blank', rel: 'noopener noreferrer', textContent: label ?? target });
}
