// Runs in the page and compares rendered Markdown with the expected HTML. Passes the number of cases and the failures
// to the callback. In `shows`, attributes that every element of a kind has are omitted; a formula is <f>TeX</f> (<F> if
// displayed); a formula with a syntax error is <bad>source</bad>; a code block is <pre lang>code</pre>.
const [done] = arguments;

const fence = '```';
const cases = [
  // Lists
  { name: 'a list of three levels', text: '- a\n  - b\n    - c\n- d', shows: '<ul><li>a<ul><li>b<ul><li>c</li></ul></li></ul></li><li>d</li></ul>' },
  { name: 'a list of four levels, indented by four', text: '* a\n    * b\n        * c\n            * d', shows: '<ul><li>a<ul><li>b<ul><li>c<ul><li>d</li></ul></li></ul></li></ul></li></ul>' },
  { name: 'numbers, letters and bullets in each other', text: '1. a\n   - b\n     1. c\n2. d', shows: '<ol><li>a<ul><li>b<ol><li>c</li></ol></li></ul></li><li>d</li></ol>' },
  { name: 'bullets indented by less than the text of a number', text: '1. a\n  - b\n    - c\n2. d\n  - e', shows: '<ol><li>a<ul><li>b<ul><li>c</li></ul></li></ul></li><li>d<ul><li>e</li></ul></li></ol>' },
  { name: 'a list in code keeps its indentation', text: `${fence}\n1. a\n  - b\n${fence}`, shows: '<pre text>1. a\n  - b</pre>' },
  { name: 'code below a number, indented by less than its text', text: `1. a\n  ${fence}yaml\n  - b:\n    - c\n  ${fence}\n2. d`, shows: '<ol><li>a</li></ol><pre yaml>- b:\n  - c</pre><ol start="2"><li>d</li></ol>' },
  { name: 'lists indented by tabs', text: '1. a\n\t- b\n\t\t- c', shows: '<ol><li>a<ul><li>b<ul><li>c</li></ul></li></ul></li></ol>' },
  { name: 'a list that begins at three', text: '3. a\n4. b', shows: '<ol start="3"><li>a</li><li>b</li></ol>' },
  { name: 'items with empty lines between them', text: '- a\n\n- b', shows: '<ul><li><p>a</p></li><li><p>b</p></li></ul>' },
  { name: 'a code block in a list', text: `1. a\n   ${fence}sh\n   ls\n     -l\n   ${fence}\n2. b`, shows: '<ol><li>a<pre sh>ls\n  -l</pre></li><li>b</li></ol>' },
  { name: 'tasks', text: '- [ ] a\n- [x] **b**\n- [c] d', shows: '<ul><li class="task"><input> a</li><li class="task"><input checked=""> <strong>b</strong></li><li>[c] d</li></ul>' },
  // Quotes and blocks
  { name: 'a quote in a quote', text: '> a\n> > b\n> > > c\n\nd', shows: '<blockquote><p>a</p><blockquote><p>b</p><blockquote><p>c</p></blockquote></blockquote></blockquote><p>d</p>' },
  { name: 'a list and code in a quote', text: `> - a\n>   - b\n> ${fence}\n> c\n> ${fence}`, shows: '<blockquote><ul><li>a<ul><li>b</li></ul></li></ul><pre text>c</pre></blockquote>' },
  { name: 'headings are below those of the page', text: '# a\n###### b', shows: '<h3>a</h3><h6>b</h6>' },
  { name: 'a rule and a line break', text: 'a\nb\n\n---', shows: '<p>a<br>\nb</p><hr>' },
  { name: 'a fence of tildes, one that contains fences, one that never ends', text: `~~~\na\n~~~\n${fence}\`md\n${fence}\n${fence}\`\n${fence}py\n  b`, shows: '<pre text>a</pre><pre md>```</pre><pre py>  b</pre>' },
  // Emphasis
  { name: 'strong and emphasized', text: '***a*** **b *c* d** _e_ __f__', shows: '<p><em><strong>a</strong></em> <strong>b <em>c</em> d</strong> <em>e</em> <strong>f</strong></p>' },
  { name: 'emphasis that ends within another', text: '**a *b***, *a **b***, ***a** b*', shows: '<p><strong>a <em>b</em></strong>, <em>a <strong>b</strong></em>, <em><strong>a</strong> b</em></p>' },
  { name: 'asterisks and underscores that are not emphasis', text: '2 * 3 * 4, snake_case_name, **a', shows: '<p>2 * 3 * 4, snake_case_name, **a</p>' },
  { name: 'strikethrough', text: '~~a~~ ~b', shows: '<p><s>a</s> ~b</p>' },
  { name: 'emphasis beside text without spaces', text: '**注意：**内容**「重要」**です', shows: '<p><strong>注意：</strong>内容<strong>「重要」</strong>です</p>' },
  { name: 'escapes', text: '\\*a\\* \\# \\` \\_b\\_ \\$5', shows: '<p>*a* # ` _b_ $5</p>' },
  // Tables
  { name: 'a table with alignments', text: '| a | b |\n|:--|--:|\n| c | d |\n\ne', shows: '<table><thead><tr><th class="left">a</th><th class="right">b</th></tr></thead><tbody><tr><td class="left">c</td><td class="right">d</td></tr></tbody></table><p>e</p>' },
  { name: 'a table directly below text', text: 'x\na | b\n--|--\nc | d', shows: '<p>x</p><table><thead><tr><th>a</th><th>b</th></tr></thead><tbody><tr><td>c</td><td>d</td></tr></tbody></table>' },
  { name: 'a pipe in code in a table', text: '| Operator | Meaning |\n|---|---|\n| `a|b` | or |\n| `` a||`b` `` | and |', shows: '<table><thead><tr><th>Operator</th><th>Meaning</th></tr></thead><tbody><tr><td><code>a|b</code></td><td>or</td></tr><tr><td><code>a||`b`</code></td><td>and</td></tr></tbody></table>' },
  { name: 'an escaped pipe in a table, in code and in text', text: '| `a\\|b` | c\\|d |\n|---|---|\n| e | f |', shows: '<table><thead><tr><th><code>a|b</code></th><th>c|d</th></tr></thead><tbody><tr><td>e</td><td>f</td></tr></tbody></table>' },
  { name: 'a pipe in the code of a heading cell', text: '| `a|b` | c |\n|---|---|\n| d | e |', shows: '<table><thead><tr><th><code>a|b</code></th><th>c</th></tr></thead><tbody><tr><td>d</td><td>e</td></tr></tbody></table>' },
  { name: 'a pipe in a formula in a table', text: '| a | b |\n|---|---|\n| $|x|$ | \\(|y|\\) |', shows: '<table><thead><tr><th>a</th><th>b</th></tr></thead><tbody><tr><td><f>|x|</f></td><td><f>|y|</f></td></tr></tbody></table>' },
  { name: 'single backticks in two cells', text: '| a | b |\n|---|---|\n| ` | x` |', shows: '<table><thead><tr><th>a</th><th>b</th></tr></thead><tbody><tr><td>`</td><td>x`</td></tr></tbody></table>' },
  { name: 'a table in a list', text: '- a\n\n  | b | c |\n  |---|---|\n  | `d|e` | f |', shows: '<ul><li><p>a</p><table><thead><tr><th>b</th><th>c</th></tr></thead><tbody><tr><td><code>d|e</code></td><td>f</td></tr></tbody></table></li></ul>' },
  { name: 'a line break in a cell', text: '| a |\n|---|\n| b<br>c<br/>d |', shows: '<table><thead><tr><th>a</th></tr></thead><tbody><tr><td>b<br>\nc<br>\nd</td></tr></tbody></table>' },
  // Formulas
  { name: 'formulas in text', text: 'a \\( x_1 \\, y*z*w \\) b $e^{i\\pi}$ c', shows: '<p>a <f>x_1 \\, y*z*w</f> b <f>e^{i\\pi}</f> c</p>' },
  { name: 'displayed formulas', text: '\\[ a \\, b \\]\n\n$$\nc\n$$\n\n$$d$$', shows: '<F>a \\, b</F><F>c</F><F>d</F>' },
  { name: 'a displayed formula with what looks like Markdown', text: 'So\n\\[\n+ a\n- b\n\n> c \\\\[2pt]\n= d\n\\].\nThus', shows: '<p>So</p><F>+ a\n- b\n\n&gt; c \\\\[2pt]\n= d\n.</F><p>Thus</p>' },
  { name: 'lines of an aligned formula', text: '$$\n\\begin{aligned}\na &= b \\\\\n- c &= d\n\\end{aligned}\n$$', shows: '<F>\\begin{aligned}\na &amp;= b \\\\\n- c &amp;= d\n\\end{aligned}</F>' },
  { name: 'an environment without delimiters', text: '\\begin{align}\na &= b\n\\end{align}', shows: '<F>\\begin{align}\na &amp;= b\n\\end{align}</F>' },
  { name: 'a displayed formula within a line', text: 'a \\[ x \\] b $$y$$ c', shows: '<p>a <F>x</F> b <F>y</F> c</p>' },
  { name: 'a displayed formula in a list', text: '1. a\n   \\[\n   x\n   \\]\n2. b', shows: '<ol><li>a<F>x</F></li><li>b</li></ol>' },
  { name: 'a displayed formula in a quote', text: '> $$\n> x\n> $$', shows: '<blockquote><F>x</F></blockquote>' },
  { name: 'a formula that is emphasized', text: '**$a$** and *\\(b\\)*', shows: '<p><strong><f>a</f></strong> and <em><f>b</f></em></p>' },
  { name: 'a fence of mathematics', text: `${fence}math\nx^2\n${fence}`, shows: '<F>x^2</F>' },
  { name: 'formulas in code stay code', text: `\`$a$ \\(b\\)\`\n\n${fence}\n$$c$$\n${fence}`, shows: '<p><code>$a$ \\(b\\)</code></p><pre text>$$c$$</pre>' },
  { name: 'a formula with a syntax error', text: 'a \\(\\frac{1}\\) b', shows: '<p>a <bad>\\(\\frac{1}\\)</bad> b</p>' },
  { name: 'prices are not formulas', text: 'From $5 to $10, $5-$10, US$5 or CA$6, $20/$30, **$1**–**$2**, $HOME:$PATH and $x$', shows: '<p>From $5 to $10, $5-$10, US$5 or CA$6, $20/$30, <strong>$1</strong>–<strong>$2</strong>, $HOME:$PATH and <f>x</f></p>' },
  { name: 'formulas within words and without spaces', text: 'the $n$th, H$_2$O, 其中$x$是, $$\\text{if $y$}$$', shows: '<p>the <f>n</f>th, H<f>_2</f>O, 其中<f>x</f>是, <F>\\text{if $y$}</F></p>' },
  { name: 'price ranges of dollar signs', text: '$$ - moderate\n$$$ - expensive', shows: '<p>$$ - moderate<br>\n$$$ - expensive</p>' },
  { name: 'TeX without delimiters keeps its backslashes', text: 'a \\( b \\[ c \\, d \\; e', shows: '<p>a \\( b \\[ c \\, d \\; e</p>' },
  { name: 'an escaped link', text: '\\[a\\](b)', shows: '<p>[a](b)</p>' },
  // Links and images
  { name: 'links', text: '[a](https://b.example/c_d "e") <https://f.example> https://g.example/h_(i). mailto:j@k.example', shows: '<p><a href="https://b.example/c_d" title="e">a</a> <a href="https://f.example">https://f.example</a> <a href="https://g.example/h_(i)">https://g.example/h_(i)</a>. <a href="mailto:j@k.example">mailto:j@k.example</a></p>' },
  { name: 'www and an address, but no file names', text: 'www.a.example/b. c@d.example main.rs app.py', shows: '<p><a href="http://www.a.example/b">www.a.example/b</a>. <a href="mailto:c@d.example">c@d.example</a> main.rs app.py</p>' },
  { name: 'a link that is emphasized, and one in a table', text: '**https://a.example/b** *[c](https://d.example)*\n\n| e |\n|---|\n| https://f.example |', shows: '<p><strong><a href="https://a.example/b">https://a.example/b</a></strong> <em><a href="https://d.example">c</a></em></p><table><thead><tr><th>e</th></tr></thead><tbody><tr><td><a href="https://f.example">https://f.example</a></td></tr></tbody></table>' },
  { name: 'a link by reference', text: '[a][b]\n\n[b]: https://c.example', shows: '<p><a href="https://c.example">a</a></p>' },
  { name: 'schemes that are not links', text: '[a](javascript:alert(1)) [b](data:text/html,x) [c](file:///etc/passwd) [d](/e) <ftp://f.example> ftp://g.example //h.example', shows: '<p>[a](javascript:alert(1)) [b](data:text/html,x) [c](file:///etc/passwd) [d](/e) &lt;ftp://f.example&gt; ftp://g.example //h.example</p>' },
  { name: 'a scheme in disguise', text: '[a](JaVaScRiPt:x) [b](java&#115;cript:x) [c](\u0001javascript:x)', shows: '<p>[a](JaVaScRiPt:x) [b](javascript:x) [c](\u0001javascript:x)</p>' },
  { name: 'images are links', text: '![a](https://b.example/c.png) [![d](https://e.example/f.png)](https://g.example)', shows: '<p><a class="image" href="https://b.example/c.png">a</a> <a href="https://g.example">d</a></p>' },
  // HTML
  { name: 'HTML is text', text: '<b onclick="x">a</b> <script>b</script> Vec<String>\n\n<div>c</div>\n\n<!-- d -->', shows: '<p>&lt;b onclick="x"&gt;a&lt;/b&gt; &lt;script&gt;b&lt;/script&gt; Vec&lt;String&gt;</p><p>&lt;div&gt;c&lt;/div&gt;</p><p>&lt;!-- d --&gt;</p>' },
  { name: 'tags that have no other notation', text: 'H<sub>2</sub>O, x<sup>*2*</sup>, <kbd>Ctrl</kbd> <sub>a', shows: '<p>H<sub>2</sub>O, x<sup><em>2</em></sup>, <kbd>Ctrl</kbd> &lt;sub&gt;a</p>' },
  { name: 'characters by name', text: '&lt;a&gt; &amp; &copy;', shows: '<p>&lt;a&gt; &amp; ©</p>' },
  { name: 'the attribute of a formula is closed', text: '$"><img src=x onerror=alert(1)>$', shows: '<p><f>"&gt;&lt;img src=x onerror=alert(1)&gt;</f></p>' },
  { name: 'the language of a fence', text: `${fence}"><img src=x>\na\n${fence}`, shows: '<pre "&gt;&lt;img>a</pre>' },
];

/** The rendered HTML in the notation of `shows`. */
function outline(target) {
  const copy = target.cloneNode(true);
  for (const formula of copy.querySelectorAll('[data-tex]')) {
    const name = formula.matches('.unreadable') ? 'bad' : formula.matches('.display') ? 'big-f' : 'small-f';
    const replacement = document.createElement(name);
    const isMath = formula.firstElementChild?.namespaceURI.endsWith('MathML');
    replacement.textContent = name === 'bad' ? formula.textContent : isMath ? formula.dataset.tex : 'no MathML';
    formula.replaceWith(replacement);
  }
  for (const table of copy.querySelectorAll('div.table')) table.replaceWith(...table.childNodes);
  for (const figure of copy.querySelectorAll('figure')) {
    const replacement = document.createElement('pre');
    replacement.textContent = `${figure.querySelector('figcaption span').textContent}:${figure.querySelector('code').textContent}`;
    figure.replaceWith(replacement);
  }
  for (const element of copy.querySelectorAll('*')) {
    for (const name of ['dir', 'tabindex', 'type', 'target', 'rel', 'disabled']) element.removeAttribute(name);
  }
  const names = { 'big-f': 'F', 'small-f': 'f' };
  return copy.innerHTML
    .replace(/(<\/?)(big-f|small-f)>/g, (_, open, name) => `${open}${names[name]}>`)
    .replace(/<pre>(.*?):/g, '<pre $1>')
    .replace(/(<\/?(?:p|ul|ol|li|table|thead|tbody|tr|th|td|blockquote|hr|h\d|pre)[^>]*>)\n/g, '$1')
    .replace(/\n(<\/?(?:p|ul|ol|li|table|thead|tbody|tr|th|td|blockquote|hr|h\d|pre|F)\b)/g, '$1');
}

/** While a text grows, the elements that were rendered before are kept, and so is a selection in them. */
function growth(render, page, check) {
  const target = document.createElement('div');
  page.append(target);
  const lines = Array.from({ length: 200 }, (_, line) => `Paragraph ${line} with **emphasis** and $x_{${line}}$.\n\n`).join('');
  const text = `${lines}${fence}\nline 1\n`;
  render(target, text, true);
  const before = [...target.children];
  const code = target.querySelector('code').firstChild;
  const changes = new MutationObserver(() => {});
  changes.observe(target, { childList: true, characterData: true, subtree: true });
  render(target, `${text}line 2\n`, true);
  render(target, `${text}line 2\nline 3`, true);
  check('a long text: blocks', target.children.length, 201);
  check('a long text: the same elements', before.every((element, index) => element === target.children[index]), true);
  check('a long text: the same text of a code block', target.querySelector('code').firstChild === code && code.data === 'line 1\nline 2\nline 3', true);
  check('a long text: changes in the document', changes.takeRecords().length, 2);
  changes.disconnect();
  const formula = document.createElement('div');
  render(formula, 'a\n\n\\[\nx', true);
  check('a formula that is not closed yet', formula.innerHTML, '<p dir="auto">a</p><div class="formula pending" dir="ltr">\\[\nx</div>');
  const reference = document.createElement('div');
  const parts = ['[a][b]\n\n', 'c\n\n', 'd\n\n', 'e\n\n', '[b]: https://f.example'];
  parts.forEach((_, index) => render(reference, parts.slice(0, index + 1).join(''), true));
  render(reference, parts.join(''));
  check('a reference that is defined at the end', reference.querySelector('a')?.href, 'https://f.example/');
}

/** Each block has the direction of its text; code and formulas are left to right. */
function directions(render, page, check) {
  const target = document.createElement('div');
  page.append(target);
  render(target, '\u0645\u0631\u062d\u0628\u0627 `code` $x$\n\nHello\n\n- \u0623\u0648\u0644\n  - \u062b\u0627\u0646\n- one\n\n'
    + '> \u0645\u0631\u062d\u0628\u0627\n\n# \u0645\u0631\u062d\u0628\u0627\n\n| \u0623 | b |\n|---|---|\n| c | d |\n\n`code` \u0645\u0631\u062d\u0628\u0627');
  const directionsOf = (selector) => [...target.querySelectorAll(selector)].map((block) => getComputedStyle(block).direction).join(' ');
  check('directions: paragraphs', directionsOf(':scope > p'), 'rtl ltr rtl');
  check('directions: list items', directionsOf('li'), 'rtl rtl ltr');
  check('directions: quote, heading, table', directionsOf('blockquote, h3, table'), 'rtl rtl rtl');
  check('directions: code and formulas', directionsOf('code, .formula'), 'ltr ltr ltr');
}

const violations = [];
document.addEventListener('securitypolicyviolation', ({ violatedDirective, blockedURI }) => violations.push(`${violatedDirective} ${blockedURI}`));

import('/markdown.js').then(async ({ render }) => {
  const failures = [];
  const check = (name, actual, expected) => {
    if (actual !== expected) failures.push({ name, actual, expected });
  };
  const page = document.createElement('div');
  page.className = 'text';
  document.body.append(page);
  for (const { name, text, shows } of cases) {
    const target = document.createElement('div');
    page.append(target);
    render(target, text);
    check(name, outline(target), shows);
    // A text that arrives in pieces must end with the same HTML as the whole text.
    const grown = document.createElement('div');
    page.append(grown);
    for (let end = 1; end <= text.length; end += 1) render(grown, text.slice(0, end), true);
    render(grown, text);
    check(`${name}, as it grows`, grown.innerHTML, target.innerHTML);
  }
  growth(render, page, check);
  directions(render, page, check);
  await new Promise((resolve) => { requestAnimationFrame(() => setTimeout(resolve)); });
  check('violations of the policy', violations.join(', '), '');
  const everything = page.querySelectorAll('*');
  check('elements that load or run something', [...everything].filter((element) => element.matches('img, script, iframe, object, style, link')).length, 0);
  check('links that open elsewhere', [...page.querySelectorAll('a')].every((a) => a.target === '_blank' && a.rel === 'noopener noreferrer'), true);
  page.remove();
  done({ cases: cases.length, failures });
}).catch((error) => done({ cases: 0, failures: [`${error}\n${error.stack}`] }));
