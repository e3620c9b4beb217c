// The chat page: what is shown of a conversation, and what its buttons and keys do.
import { ask, serverEvents } from './completion.js';
import { element, render } from './markdown.js';
import { followState } from './server.js';
import { followForm, requestFields, showDefaults, systemPrompt } from './settings.js';
import * as store from './store.js';

const byId = (id) => document.getElementById(id);
const NEAR_END_PX = 48;
const SAVE_EVERY_MS = 1000;
const TOAST_MS = 8000;
const PAINT_SHARE = 4; // of the time while an answer grows, painting takes at most one in so many parts
const NO_RESULT = 'No result was given.'; // for the model, where a call has none

const runs = new Map(); // conversation id → the answer that is on its way
const problems = new Map(); // conversation id → why it has no answer
let conversations = store.conversations();
const bodies = new WeakMap(); // answer → the element that shows its text
let editing = null; // { conversation, draft } while the last question is edited; nothing changes until it is sent
let current = conversations.find(({ id }) => `#${id}` === location.hash) ?? conversations[0] ?? store.newConversation();
let state = { name: 'connecting' };
let context = null; // tokens
let follows = true;

/* Asking */

/** Asks for the next message of a conversation. If none begins, `replaced`, the answer before, is put back. */
async function answer(conversation, replaced = null) {
  const message = { role: 'assistant', content: '', note: {} };
  const run = { conversation, message, controller: new AbortController(), began: performance.now(), tokens: 0, saved: 0, paintAt: 0, complete: false };
  runs.set(conversation.id, run);
  problems.delete(conversation.id);
  byId('toast').hidePopover(); // what it offers to undo has passed
  if (conversation === current) {
    follows = true;
    paint();
  }
  try {
    const said = conversation.messages.flatMap(asSent);
    const system = systemPrompt();
    const body = {
      messages: system ? [{ role: 'system', content: system }, ...said] : said,
      stream: true,
      stream_options: { include_usage: true },
      ...requestFields(),
    };
    const response = await ask('v1/chat/completions', body, { key: store.read('key'), signal: run.controller.signal });
    for await (const event of serverEvents(response)) {
      const [choice] = event.choices;
      if (choice?.delta) grow(conversation, run, choice.delta);
      if (choice?.finish_reason) message.note.finish = choice.finish_reason;
      if (event.usage) message.note.usage = event.usage;
    }
    if (!message.note.finish) throw new Error('The connection ended before the answer did.');
    run.complete = true;
  } catch (error) {
    const wasStopped = run.controller.signal.aborted;
    message.note.finish = wasStopped ? 'stopped' : 'broken off';
    if (!wasStopped) failed(conversation, run, error);
  }
  runs.delete(conversation.id);
  // No words are an answer, too, if the model ended it.
  if (run.tokens === 0 && run.complete) conversation.messages.push(message);
  else if (run.tokens === 0 && replaced) conversation.messages.push(replaced);
  if (run.discarded) return;
  Object.assign(message.note, measured(run));
  saved(conversation);
  if (conversation === current) {
    paint();
    if (!problems.has(conversation.id)) byId('announcer').textContent = `Answer: ${message.content || calledNames(message)}`;
  }
}

/** A message as the server takes it: calls are followed by their results. A call that was cut off is left out. */
function asSent({ role, content, calls = [] }) {
  const complete = calls.filter(isComplete);
  if (complete.length === 0) return [{ role, content }];
  const toolCalls = complete.map(({ id, name, arguments: text }) => ({ id, type: 'function', function: { name, arguments: text } }));
  const results = complete.map(({ id, result }) => ({ role: 'tool', tool_call_id: id, content: result ?? NO_RESULT }));
  return [{ role, content: content || null, tool_calls: toolCalls }, ...results];
}

/** Whether the next message is the model's. */
const expectsAnswer = (message) => message?.role === 'user' || Boolean(message?.calls?.some(({ result }) => result !== undefined));

const calledNames = ({ calls = [] }) => calls.map(({ name }) => `calls ${name}`).join(', ');

const isComplete = (call) => parsedArguments(call) !== undefined;

function parsedArguments({ arguments: text }) {
  try {
    return JSON.parse(text || '{}');
  } catch {
    return undefined;
  }
}

/** Adds what an event brings: the first one makes the message, every one is painted with a later frame. */
function grow(conversation, run, { content, reasoning_content: thought, tool_calls: calls }) {
  if (!content && !thought && !calls?.length) return;
  const { message } = run;
  const now = performance.now();
  run.first ??= now;
  run.last = now;
  run.tokens += 1;
  if (content) message.content += content;
  if (thought) message.thought = (message.thought ?? '') + thought;
  for (const { index, id, function: called } of calls ?? []) {
    message.calls ??= [];
    const call = (message.calls[index ?? message.calls.length] ??= { id: id ?? '', name: '', arguments: '' });
    call.name += called?.name ?? '';
    call.arguments += called?.arguments ?? '';
  }
  if (run.tokens === 1) {
    conversation.messages.push(message);
    if (conversation === current) paint();
  }
  if (now - run.saved > SAVE_EVERY_MS) {
    run.saved = now;
    saved(conversation);
  }
  run.timer ??= setTimeout(() => requestAnimationFrame(() => paintGrowth(run)), run.paintAt - now);
}

/** Paints an answer that grows, and leaves the browser time for everything else. */
function paintGrowth(run) {
  run.timer = null;
  const { conversation, message } = run;
  if (conversation !== current || runs.get(conversation.id) !== run) return;
  const began = performance.now();
  const item = byId('thread').lastElementChild;
  render(item.querySelector('.text'), message.content, true);
  think(item.querySelector('.thought'), message);
  showCalls(item.querySelector('.calls'), message);
  item.querySelector('.note').textContent = described({ ...message.note, ...measured(run) });
  scrollOn();
  const ended = performance.now();
  run.paintAt = ended + (ended - began) * (PAINT_SHARE - 1);
}

/** What a run's clock says: an event is a token, and the first one's wait is the prompt's. */
function measured({ began, first, last, tokens }) {
  if (!first) return {};
  const seconds = (last - first) / 1000;
  return { tokens, first: (first - began) / 1000, rate: seconds > 0 ? (tokens - 1) / seconds : null };
}

function described({ finish, usage, tokens, first, rate }) {
  const count = usage?.completion_tokens ?? tokens;
  const parts = [];
  if (finish === 'length') parts.push('cut off at the limit');
  else if (finish && !['stop', 'tool_calls'].includes(finish)) parts.push(finish);
  if (count !== undefined) parts.push(`${count} ${count === 1 ? 'token' : 'tokens'}`);
  if (rate) parts.push(`${rate.toFixed(1)} per second`);
  if (first !== undefined) parts.push(`first after ${first.toFixed(first < 10 ? 2 : 0)} s`);
  if (usage) parts.push(`context ${usage.total_tokens}${context ? ` of ${context}` : ''}`);
  return parts.map((part) => part.replaceAll(' ', '\u00a0')).join(' · ');
}

function failed(conversation, run, error) {
  const unreachable = error instanceof TypeError; // that is how fetch says it
  const inWords = run.first ? 'The connection to the server broke.' : 'The server cannot be reached.';
  problems.set(conversation.id, unreachable ? inWords : error.message);
  if (unreachable || error.status === 401 || error.status === 503) check();
}

function stopAnswer() {
  runs.get(current.id)?.controller.abort();
}

/* Keeping */

function saved(conversation) {
  if (!store.save(conversation)) toast('The browser has no room to keep this conversation.');
  refresh();
}

/** Reads the list anew. What another tab changed is taken over, unless it is at work here. */
function refresh(byAnotherTab = false) {
  conversations = store.conversations().map((kept) => {
    if (runs.has(kept.id)) return runs.get(kept.id).conversation;
    if (kept.id !== current.id) return kept;
    if (byAnotherTab && JSON.stringify(kept.messages) !== JSON.stringify(current.messages)) {
      current.messages = kept.messages;
      editing = null; // what is written stays, and is sent as a message of its own
      paint();
    }
    return current;
  });
  paintList();
}

function open(conversation) {
  if (conversation !== editing?.conversation) cancelEdit();
  current = conversation;
  follows = true;
  history.replaceState(null, '', conversation.messages.length > 0 ? `#${conversation.id}` : location.pathname);
  if (byId('conversations').matches(':popover-open')) byId('conversations').hidePopover();
  paint();
  paintList();
  scrollOn();
}

function discard(conversation) {
  forget(conversation);
  refresh();
  if (conversation === current) open(conversations[0] ?? store.newConversation());
  toast(`“${title(conversation)}” is deleted.`, () => {
    saved(conversation);
    open(conversations.find(({ id }) => id === conversation.id));
  });
}

function forget(conversation) {
  const run = runs.get(conversation.id);
  if (run) {
    run.discarded = true;
    run.controller.abort();
  }
  store.remove(conversation);
}

/** Deletes the last question and what followed it. */
function deleteTurn() {
  cancelEdit();
  const conversation = current;
  const from = conversation.messages.findLastIndex(({ role }) => role === 'user');
  const turn = conversation.messages.splice(from);
  problems.delete(conversation.id);
  saved(conversation);
  paint();
  toast('The last turn is deleted.', () => {
    conversation.messages.splice(from, Infinity, ...turn);
    saved(conversation);
    open(conversation);
  });
}

/** Copies the last question into the message box. Sending replaces the question and what followed it. */
function edit(text) {
  editing = { conversation: current, draft: editing?.draft ?? byId('message').value };
  paint();
  write(text);
}

function cancelEdit() {
  if (!editing) return;
  const { draft } = editing;
  editing = null;
  paint();
  write(draft);
}

function answerAnew() {
  cancelEdit();
  answer(current, expectsAnswer(current.messages.at(-1)) ? null : current.messages.pop());
}

/* Painting */

const title = ({ messages }) => messages[0]?.content.trim().split('\n')[0].slice(0, 80) || 'New conversation';
const button = (textContent, onclick, label) =>
  element('button', { type: 'button', className: 'quiet', textContent, onclick, ariaLabel: label ?? null });

function paint() {
  const run = runs.get(current.id);
  const last = current.messages.length - 1;
  const lastQuestion = current.messages.findLastIndex(({ role }) => role === 'user');
  const items = current.messages.map((message, place) => {
    const item = message.role === 'user'
      ? question(message, place === lastQuestion && !run)
      : reply(message, place === last && !run, message === run?.message);
    item.classList.toggle('replaced', editing?.conversation === current && place >= lastQuestion);
    return item;
  });
  if (run && !current.messages.includes(run.message)) items.push(waiting());
  byId('thread').replaceChildren(...items);
  byId('welcome').hidden = last >= 0;
  byId('editing').hidden = editing?.conversation !== current;
  paintProblem(Boolean(run), expectsAnswer(current.messages[last]));
  paintControls();
  document.title = last >= 0 ? `${title(current)} – ortolan` : 'ortolan';
  scrollOn();
}

function question(message, isLast) {
  const item = element('li', { className: 'user' });
  const text = element('div', { className: 'text', dir: 'auto', textContent: message.content });
  const actions = element('div', { className: 'actions' }, button('Copy', (event) => copy(event.target, message.content)));
  if (isLast) actions.append(button('Edit', () => edit(message.content)), button('Delete', deleteTurn));
  item.append(element('h3', { className: 'unseen', textContent: 'You' }), text, actions);
  return item;
}

/** What was thought before an answer, for those who open it. */
function think(thought, message) {
  thought.hidden = !message.thought;
  thought.lastElementChild.textContent = message.thought ?? '';
}

/** An answer. `canChange`: it is the last one and complete; `growing`: more of it will come. */
function reply(message, canChange, growing) {
  const { content, note: measures, calls } = message;
  const text = bodies.get(message) ?? element('div', { className: 'text' });
  bodies.set(message, text);
  render(text, content, growing);
  const thought = element('details', { className: 'thought' }, element('summary', { textContent: 'Thought' }), element('div', { dir: 'auto' }));
  think(thought, message);
  const called = element('div', { className: 'calls' });
  showCalls(called, message);
  const note = element('span', { className: 'note', textContent: growing ? '' : described({ finish: 'broken off', ...measures }) });
  const actions = element('div', { className: 'actions' });
  if (!growing) actions.append(button('Copy', (event) => copy(event.target, content || JSON.stringify(calls?.map(callOf)))));
  if (canChange && !expectsAnswer(message)) actions.append(button('Regenerate', answerAnew));
  actions.append(note);
  const item = element('li', { className: 'assistant' });
  item.classList.toggle('growing', growing);
  item.append(element('h3', { className: 'unseen', textContent: 'Answer' }), thought, text, called);
  if (canChange && calls?.some(isComplete) && !expectsAnswer(message)) item.append(resultForm(message));
  if (!growing && !content && !calls) item.append(element('p', { className: 'empty', textContent: 'The answer is empty.' }));
  item.append(actions);
  return item;
}

const callOf = ({ name, arguments: text }) => ({ name, arguments: text });

/** The functions that a message calls, with their arguments and results. */
function showCalls(target, { calls = [] }) {
  target.replaceChildren(...calls.map((call) => {
    const { name, arguments: text, result } = call;
    const value = parsedArguments(call);
    const head = element('figcaption', {}, element('span', {}, 'Calls ', element('code', { textContent: name })));
    const block = (content) => element('pre', { tabIndex: 0 }, element('code', { textContent: content }));
    const shown = element('figure', { className: 'code call', dir: 'ltr' }, head, block(value === undefined ? text : JSON.stringify(value, null, 2)));
    if (result !== undefined) shown.append(element('figcaption', { textContent: 'Result' }), block(result));
    return shown;
  }));
}

/** Where the results of calls are written: the page itself runs no function. */
function resultForm({ calls }) {
  const complete = calls.filter(isComplete);
  const fields = complete.map(({ name }) => element('textarea', { rows: 1, dir: 'auto', ariaLabel: `Result of ${name}`, placeholder: `Result of ${name}` }));
  const send = element('button', { className: 'quiet send-results', textContent: 'Send to the model' });
  const form = element('form', { className: 'results' }, ...fields, send);
  form.addEventListener('submit', (event) => {
    event.preventDefault();
    if (state.name !== 'ready' || runs.has(current.id)) return;
    complete.forEach((call, place) => { call.result = fields[place].value; });
    cancelEdit();
    saved(current);
    answer(current);
  });
  return form;
}

function waiting() {
  return element('li', { className: 'assistant waiting', ariaLabel: 'Waiting for the answer' }, ...['', '', ''].map(() => element('i')));
}

function paintProblem(running, isUnanswered) {
  const problem = running ? null : problems.get(current.id) ?? (isUnanswered ? 'This message has no answer.' : null);
  byId('problem').replaceChildren(...(problem ? [element('p', { textContent: problem }), button('Try again', answerAnew)] : []));
  byId('problem').classList.toggle('calm', !problems.has(current.id));
}

function paintControls() {
  const running = runs.has(current.id);
  const stopHadFocus = document.activeElement === byId('stop');
  byId('send').hidden = running;
  byId('stop').hidden = !running;
  byId('send').disabled = state.name !== 'ready' || byId('message').value.trim() === '';
  if (stopHadFocus && !running) byId('message').focus();
}

function paintList() {
  const shown = JSON.stringify([current.id, conversations.map((conversation) => [conversation.id, title(conversation)])]);
  if (shown === byId('list').shown) return; // it keeps the keyboard's place
  byId('list').shown = shown;
  byId('list').replaceChildren(...conversations.map((conversation) => {
    const name = title(conversation);
    const choose = element('button', { type: 'button', className: 'choose', dir: 'auto', textContent: name, title: name, onclick: () => open(conversation) });
    if (conversation === current) choose.ariaCurrent = 'true';
    return element('li', {}, choose, button('×', () => discard(conversation), `Delete “${name}”`));
  }));
}

function paintState(found) {
  state = found;
  byId('state').dataset.state = found.name;
  byId('state-text').textContent = found.text;
  byId('state').title = found.props?.model ?? '';
  byId('progress').hidden = found.name !== 'loading' || found.progress === undefined;
  if (found.progress !== undefined) byId('progress').value = found.progress;
  if (found.props) {
    const known = context;
    context = found.props.n_ctx;
    if (context !== known) paint(); // notes tell how full it is
    showDefaults(found.props.default_generation_settings);
    showKeyProblem('');
  }
  if (found.name === 'locked') askForKey(found.problem);
  paintControls();
}

/* Small things */

function write(text) {
  byId('message').value = text;
  fitMessage();
  byId('message').focus();
}

function fitMessage() {
  const { style } = byId('message');
  style.height = 'auto';
  style.height = `${byId('message').scrollHeight + 2}px`;
  paintControls();
}

function scrollOn() {
  if (follows) byId('scroll').scrollTop = byId('scroll').scrollHeight;
  byId('latest').hidden = follows;
}

async function copy(source, text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // Over plain HTTP from another machine there is no clipboard but the old one.
    const area = element('textarea', { value: text, className: 'unseen' });
    document.body.append(area);
    area.select();
    document.execCommand('copy');
    area.remove();
  }
  source.textContent = 'Copied';
  setTimeout(() => { source.textContent = 'Copy'; }, 1500);
}

let toastTimer = null;
function toast(text, undo) {
  byId('toast-text').textContent = text;
  byId('undo').hidden = !undo;
  byId('undo').onclick = () => {
    byId('toast').hidePopover();
    undo();
  };
  byId('toast').showPopover();
  clearTimeout(toastTimer);
  toastTimer = setTimeout(() => byId('toast').hidePopover(), TOAST_MS);
}

function askForKey(message) {
  const had = Boolean(store.read('key'));
  showKeyProblem(had ? `The server refused this key: ${message}.` : 'This server answers only those who have a key.');
  if (!byId('settings').open) byId('settings').showModal();
  keyInput.focus();
}

function showKeyProblem(text) {
  byId('key-problem').textContent = text;
  byId('key-problem').hidden = text === '';
}

const keyInput = document.querySelector('[name=key]');

/* What people do */

byId('composer').addEventListener('submit', (event) => {
  event.preventDefault();
  const text = byId('message').value.trim();
  if (text === '' || state.name !== 'ready' || runs.has(current.id)) return;
  if (editing) current.messages.splice(current.messages.findLastIndex(({ role }) => role === 'user'));
  write(editing?.draft ?? '');
  editing = null;
  current.messages.push({ role: 'user', content: text });
  saved(current);
  history.replaceState(null, '', `#${current.id}`);
  answer(current);
});
byId('message').addEventListener('keydown', (event) => {
  if (event.key !== 'Enter' || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  byId('composer').requestSubmit();
});
byId('message').addEventListener('input', fitMessage);
byId('cancel-edit').addEventListener('click', cancelEdit);
byId('stop').addEventListener('click', stopAnswer);
document.addEventListener('keydown', (event) => {
  if (event.key !== 'Escape' || document.querySelector('dialog[open], nav:popover-open')) return;
  if (editing) cancelEdit();
  else stopAnswer();
});
byId('ideas').addEventListener('click', ({ target }) => {
  if (target.localName !== 'button') return;
  write(target.textContent);
});
byId('thread').addEventListener('click', ({ target }) => {
  if (target.classList.contains('copy-code')) copy(target, target.closest('figure').querySelector('code').textContent);
});
byId('scroll').addEventListener('scroll', () => {
  const { scrollHeight, scrollTop, clientHeight } = byId('scroll');
  follows = scrollHeight - scrollTop - clientHeight < NEAR_END_PX;
  byId('latest').hidden = follows;
});
byId('latest').addEventListener('click', () => {
  follows = true;
  scrollOn();
});
byId('new').addEventListener('click', () => {
  open(store.newConversation());
  byId('message').focus();
});
byId('open-settings').addEventListener('click', () => byId('settings').showModal());
byId('settings').addEventListener('click', (event) => {
  if (event.target === byId('settings')) byId('settings').close();
});
byId('clear').addEventListener('click', () => {
  if (!confirm('Delete all conversations that this browser keeps?')) return;
  conversations.forEach(forget);
  refresh();
  open(store.newConversation());
  byId('settings').close();
});
keyInput.value = store.read('key', '');
keyInput.addEventListener('change', () => {
  store.keep('key', keyInput.value.trim());
  check();
});
addEventListener('storage', () => refresh(true));
addEventListener('pagehide', () => conversations.filter(({ id }) => runs.get(id)?.tokens > 0).forEach(store.save));
document.addEventListener('visibilitychange', () => {
  if (!document.hidden && runs.size === 0) check();
});

const check = followState(() => store.read('key'), paintState);
followForm((anyChanged) => byId('open-settings').classList.toggle('changed', anyChanged));
check();
open(current);
